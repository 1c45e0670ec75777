#include "server/otlp_client.h"

#include <grpcpp/grpcpp.h>

#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "opentelemetry/proto/collector/trace/v1/trace_service.grpc.pb.h"
#include "server/random.h"
#include "server/status.h"

namespace patchflow {
namespace {

namespace otlp = opentelemetry::proto::collector::trace::v1;

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> CredentialsOf(
    const TracingConfig& config) {
  if (config.ca.empty()) {
    return grpc::InsecureChannelCredentials();
  }
  std::ifstream file(config.ca, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(absl::StrCat("tracing.ca: cannot read '", config.ca, "'"));
  }
  std::ostringstream text;
  text << file.rdbuf();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = text.str();
  return grpc::SslCredentials(options);
}

}  // namespace

absl::StatusOr<TraceExporter::Send> MakeOtlpSender(const TracingConfig& config) {
  if (config.otlp.empty()) {
    return TraceExporter::Send();
  }
  auto credentials = CredentialsOf(config);
  if (!credentials.ok()) {
    return credentials.status();
  }
  std::shared_ptr<otlp::TraceService::Stub> stub =
      otlp::TraceService::NewStub(grpc::CreateChannel(config.otlp, *credentials));
  return [stub](const TraceExporter::Request& request, absl::Duration timeout) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    otlp::ExportTraceServiceResponse response;
    const grpc::Status status = stub->Export(&context, request, &response);
    if (status.ok() && response.partial_success().rejected_spans() > 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("the collector refused ", response.partial_success().rejected_spans(),
                       " spans: ", response.partial_success().error_message()));
    }
    return FromGrpc(status);
  };
}

std::unique_ptr<TraceExporter> MakeTraceExporter(const TracingConfig& config,
                                                 TraceExporter::Send send,
                                                 const TracingMetrics& metrics) {
  if (send == nullptr) {
    return nullptr;
  }
  TraceExporter::Options options;
  options.service_name = config.service_name;
  options.instance = RandomUuid();
  options.max_waiting = static_cast<size_t>(config.queue);
  return std::make_unique<TraceExporter>(options, std::move(send), metrics);
}

}  // namespace patchflow
