#include "worker/status.h"

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>

#include <string>

#include "engine/engine.h"

namespace patchflow {
namespace {

constexpr size_t kMaxMessageBytes = 1024;

// Not in the middle of a UTF-8 character.
std::string Cut(std::string text) {
  if (text.size() <= kMaxMessageBytes) return text;
  size_t end = kMaxMessageBytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end);
}

}  // namespace

grpc::Status RpcStatusOf(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string reason = EngineReasonOf(status);
  google::rpc::ErrorInfo info;
  info.set_domain("patchflow");
  info.set_reason(reason.empty() ? "INTERNAL" : reason);
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(Cut(std::string(status.message())));
  details.add_details()->PackFrom(info);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), details.message(),
                      details.SerializeAsString());
}

}  // namespace patchflow
