#include "client/server_error.h"

#include <google/rpc/status.pb.h>

#include <nlohmann/json.hpp>

#include "client/console.h"

namespace patchflow {
namespace {

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + 1e-9 * duration.nanos();
}

}  // namespace

absl::Status StatusOf(const grpc::Status& status) {
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (status.ok() || !details.ParseFromString(status.error_details())) return result;
  for (const google::protobuf::Any& detail : details.details()) {
    result.SetPayload(detail.type_url(), absl::Cord(detail.value()));
  }
  return result;
}

std::string RenderError(const absl::Status& status) {
  std::string text = absl::StatusCodeToString(status.code());
  if (const auto info = DetailOf<google::rpc::ErrorInfo>(status); info && !info->reason().empty()) {
    absl::StrAppend(&text, " (", info->reason(), ")");
  }
  absl::StrAppend(&text, ": ", std::string(status.message()));
  if (const auto request = DetailOf<google::rpc::BadRequest>(status)) {
    for (const auto& violation : request->field_violations()) {
      absl::StrAppend(&text, "\n  ", violation.field(), ": ", violation.description());
    }
  }
  if (const auto resource = DetailOf<google::rpc::ResourceInfo>(status)) {
    absl::StrAppend(&text, "\n  ", resource->resource_type(), ": ", resource->resource_name());
  }
  if (const auto retry = DetailOf<google::rpc::RetryInfo>(status)) {
    absl::StrAppend(&text, "\n  try again in ", Seconds(retry->retry_delay()), " s");
  }
  return Printable(text);
}

nlohmann::json ErrorJson(const absl::Status& status) {
  nlohmann::json json = {{"status", absl::StatusCodeToString(status.code())},
                         {"message", std::string(status.message())}};
  if (const auto info = DetailOf<google::rpc::ErrorInfo>(status)) {
    json["reason"] = info->reason();
    for (const auto& [key, value] : info->metadata()) json["metadata"][key] = value;
  }
  if (const auto request = DetailOf<google::rpc::BadRequest>(status)) {
    for (const auto& violation : request->field_violations()) {
      json["violations"].push_back(
          {{"field", violation.field()}, {"description", violation.description()}});
    }
  }
  if (const auto retry = DetailOf<google::rpc::RetryInfo>(status)) {
    json["retry_after_s"] = Seconds(retry->retry_delay());
  }
  return json;
}

}  // namespace patchflow
