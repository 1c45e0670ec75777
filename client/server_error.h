// What a server's error says: absl::Status whose payloads are the details of google.rpc.Status.
#pragma once

#include <google/rpc/error_details.pb.h>
#include <grpcpp/support/status.h>

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace patchflow {

// Code and message, and every detail as the payload of its type URL. Details that can't be parsed
// are left out.
absl::Status StatusOf(const grpc::Status& status);

// The detail of one type, if the status has it and it can be parsed.
template <typename Message>
std::optional<Message> DetailOf(const absl::Status& status) {
  const auto payload =
      status.GetPayload(absl::StrCat("type.googleapis.com/", Message::descriptor()->full_name()));
  Message message;
  if (!payload || !message.ParseFromString(std::string(*payload))) return std::nullopt;
  return message;
}

// For people, several lines: code and reason, message, each field violation, when to try again. No
// line feed at the end.
std::string RenderError(const absl::Status& status);

// For programs: {"status", "reason", "message", "metadata", "violations", "retry_after_s"}; what
// there is none of is left out.
nlohmann::json ErrorJson(const absl::Status& status);

}  // namespace patchflow
