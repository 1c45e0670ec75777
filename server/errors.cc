#include "server/errors.h"

#include <cstdint>

#include "google/rpc/error_details.pb.h"

namespace patchflow {
namespace {

template <typename Message>
std::optional<Message> Detail(const absl::Status& status, const char* url) {
  auto payload = status.GetPayload(url);
  Message message;
  if (!payload.has_value() || !message.ParseFromString(std::string(*payload))) {
    return std::nullopt;
  }
  return message;
}

}  // namespace

absl::Status MakeError(absl::StatusCode code, const char* reason, const std::string& message,
                       const ErrorMetadata& metadata) {
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain(kErrorDomain);
  for (const auto& [key, value] : metadata) {
    (*info.mutable_metadata())[key] = CutText(value, 200);
  }
  absl::Status status(code, message);
  status.SetPayload(kErrorInfoUrl, absl::Cord(info.SerializeAsString()));
  return status;
}

absl::Status FieldErrors(const char* reason, const std::vector<FieldError>& fields,
                         const ErrorMetadata& metadata) {
  google::rpc::BadRequest bad;
  std::string message;
  for (const FieldError& field : fields) {
    auto* violation = bad.add_field_violations();
    violation->set_field(field.field);
    violation->set_description(field.description);
    message += (message.empty() ? "" : "; ") + field.field + ": " + field.description;
  }
  absl::Status status = MakeError(absl::StatusCode::kInvalidArgument, reason, message, metadata);
  status.SetPayload(kBadRequestUrl, absl::Cord(bad.SerializeAsString()));
  return status;
}

absl::Status WithRetry(absl::Status status, absl::Duration delay) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(absl::ToInt64Seconds(delay));
  retry.mutable_retry_delay()->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(delay % absl::Seconds(1))));
  status.SetPayload(kRetryInfoUrl, absl::Cord(retry.SerializeAsString()));
  return status;
}

absl::Status WithResource(absl::Status status, const std::string& type, const std::string& name) {
  google::rpc::ResourceInfo resource;
  resource.set_resource_type(type);
  resource.set_resource_name(CutText(name, 200));
  status.SetPayload(kResourceInfoUrl, absl::Cord(resource.SerializeAsString()));
  return status;
}

absl::Status WithQuota(absl::Status status, const std::string& subject,
                       const std::string& description) {
  google::rpc::QuotaFailure failure;
  auto* violation = failure.add_violations();
  violation->set_subject(subject);
  violation->set_description(description);
  status.SetPayload(kQuotaFailureUrl, absl::Cord(failure.SerializeAsString()));
  return status;
}

std::string CutText(const std::string& text, size_t bytes) {
  if (text.size() <= bytes) {
    return text;
  }
  size_t end = bytes - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) {
    --end;
  }
  return text.substr(0, end) + "...";
}

std::string ReasonOf(const absl::Status& status) {
  auto info = Detail<google::rpc::ErrorInfo>(status, kErrorInfoUrl);
  return info.has_value() ? info->reason() : "";
}

std::string MetadataOf(const absl::Status& status, const std::string& key) {
  auto info = Detail<google::rpc::ErrorInfo>(status, kErrorInfoUrl);
  if (!info.has_value()) {
    return "";
  }
  auto found = info->metadata().find(key);
  return found == info->metadata().end() ? "" : found->second;
}

std::optional<absl::Duration> RetryDelayOf(const absl::Status& status) {
  auto retry = Detail<google::rpc::RetryInfo>(status, kRetryInfoUrl);
  if (!retry.has_value()) {
    return std::nullopt;
  }
  return absl::Seconds(retry->retry_delay().seconds()) +
         absl::Nanoseconds(retry->retry_delay().nanos());
}

}  // namespace patchflow
