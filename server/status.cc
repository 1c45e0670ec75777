#include "server/status.h"

#include <algorithm>
#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/errors.h"

namespace patchflow {
namespace {

constexpr size_t kMaxMessageBytes = 1000;
constexpr size_t kMaxDetailsBytes = 4000;

std::string WithFewerViolations(const std::string& serialized, size_t bytes) {
  google::rpc::BadRequest bad;
  bad.ParseFromString(serialized);
  auto* violations = bad.mutable_field_violations();
  for (auto& violation : *violations) {
    violation.set_description(CutText(violation.description(), 300));
  }
  int dropped = 0;
  while (violations->size() > 1 && bad.ByteSizeLong() + 64 > bytes) {
    violations->RemoveLast();
    ++dropped;
  }
  if (dropped > 0) {
    auto* last = violations->Add();
    last->set_field("*");
    last->set_description("and " + std::to_string(dropped) + " more");
  }
  return bad.SerializeAsString();
}

google::rpc::Status Details(const absl::Status& status, const std::string& message) {
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(message);
  std::string bad_request;
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    if (url == kBadRequestUrl) {
      bad_request = std::string(payload);
      return;
    }
    auto* detail = details.add_details();
    detail->set_type_url(std::string(url));
    detail->set_value(std::string(payload));
  });
  if (!bad_request.empty()) {
    const size_t used = std::min(kMaxDetailsBytes, details.ByteSizeLong() + 64);
    auto* detail = details.add_details();
    detail->set_type_url(kBadRequestUrl);
    detail->set_value(WithFewerViolations(bad_request, kMaxDetailsBytes - used));
  }
  return details;
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) {
    return grpc::Status::OK;
  }
  if (ReasonOf(status).empty()) {
    return ToGrpc(MakeError(absl::StatusCode::kInternal, reason::kInternal, "internal error"));
  }
  const std::string message =
      CutText(std::string(status.message().data(), status.message().size()), kMaxMessageBytes);
  std::string details = Details(status, message).SerializeAsString();
  if (details.size() > kMaxDetailsBytes) {
    details.clear();
  }
  return {static_cast<grpc::StatusCode>(status.code()), message, details};
}

absl::Status FromGrpc(const grpc::Status& status) {
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (!status.ok() && details.ParseFromString(status.error_details())) {
    for (const auto& detail : details.details()) {
      result.SetPayload(detail.type_url(), absl::Cord(detail.value()));
    }
  }
  return result;
}

}  // namespace patchflow
