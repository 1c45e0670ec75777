#include "server/caller.h"

#include <string>

namespace patchflow {
namespace {

constexpr char kAuthorization[] = "authorization";
constexpr char kTraceParent[] = "traceparent";
constexpr char kCommonName[] = "x509_common_name";  // GRPC_X509_CN_PROPERTY_NAME.

std::string ToString(const grpc::string_ref& text) { return {text.data(), text.size()}; }

class ReflectionGuard final : public grpc::AuthMetadataProcessor {
 public:
  explicit ReflectionGuard(const Guard& guard) : guard_(guard) {}

  bool IsBlocking() const override { return false; }

  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* /*context*/,
                       OutputMetadata* /*consumed*/, OutputMetadata* /*response*/) override {
    const auto path = metadata.find(":path");
    if (path == metadata.end() || !path->second.starts_with("/grpc.reflection.")) {
      return grpc::Status::OK;  // Handlers of ours ask the guard themselves.
    }
    Shown shown;
    if (auto found = metadata.find(kAuthorization); found != metadata.end()) {
      shown.authorization = ToString(found->second);
    }
    auto identity = guard_.Check(shown, "");
    if (identity.ok()) {
      return grpc::Status::OK;
    }
    return {static_cast<grpc::StatusCode>(identity.status().code()),
            std::string(identity.status().message())};
  }

 private:
  const Guard& guard_;
};

}  // namespace

Shown ShownBy(const grpc::ServerContextBase& context) {
  Shown shown;
  shown.peer = context.peer();
  const auto& metadata = context.client_metadata();
  if (auto found = metadata.find(kAuthorization); found != metadata.end()) {
    shown.authorization = ToString(found->second);
  }
  if (auto auth = context.auth_context(); auth != nullptr && auth->IsPeerAuthenticated()) {
    const auto names = auth->FindPropertyValues(kCommonName);
    shown.certificate_name = names.empty() ? "" : ToString(names.front());
  }
  return shown;
}

std::optional<TraceContext> TraceParentOf(const grpc::ServerContextBase& context) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find(kTraceParent);
  return found == metadata.end() ? std::nullopt : ParseTraceparent(ToString(found->second));
}

std::shared_ptr<grpc::AuthMetadataProcessor> MakeReflectionGuard(const Guard& guard) {
  return std::make_shared<ReflectionGuard>(guard);
}

}  // namespace patchflow
