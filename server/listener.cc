#include "server/listener.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/resource_quota.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/reflection_service.h"

namespace patchflow {
namespace {

// gRPC's reflection, once asked for, comes with every server of the process; this takes it away.
class WithoutPlugins final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments* /*arguments*/) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    plugins->clear();
  }
};

// Every open stream of gRPC's v1alpha holds a thread, and nothing else does: the services of ours
// are called back. More streams are refused with RESOURCE_EXHAUSTED.
constexpr int kMaxReflectionThreads = 16;

void SetArguments(const ListenerOptions& options, grpc::ServerBuilder& builder) {
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // A port in use must be refused.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams);
  if (options.max_connection_age < absl::InfiniteDuration()) {
    builder.AddChannelArgument(
        GRPC_ARG_MAX_CONNECTION_AGE_MS,
        static_cast<int>(absl::ToInt64Milliseconds(options.max_connection_age)));
  }
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  builder.SetMaxSendMessageSize(-1);
  grpc::ResourceQuota quota;
  quota.SetMaxThreads(kMaxReflectionThreads);
  quota.Resize(options.max_memory_bytes);
  builder.SetResourceQuota(quota);
}

}  // namespace

void Listener::Stop(absl::Duration grace) {
  if (server != nullptr) {
    server->Shutdown(absl::ToChronoTime(absl::Now() + grace));
    server->Wait();
    server.reset();
  }
}

absl::StatusOr<Listener> Listen(const ListenerOptions& options) {
  if (options.reflection) {
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  }
  grpc::ServerBuilder builder;
  builder.SetOption(options.reflection ? MakeReflectionOption()
                                       : std::make_unique<WithoutPlugins>());
  int port = 0;
  builder.AddListeningPort(options.address, options.credentials, &port);
  SetArguments(options, builder);
  for (grpc::Service* service : options.services) {
    builder.RegisterService(service);
  }
  Listener listener{builder.BuildAndStart(), options.address};
  if (listener.server == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat(options.key, ": cannot listen on ", options.address, ": is it in use?"));
  }
  if (options.address.rfind("unix:", 0) != 0) {
    listener.address =
        absl::StrCat(options.address.substr(0, options.address.rfind(':')), ":", port);
  }
  return listener;
}

}  // namespace patchflow
