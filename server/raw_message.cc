#include "server/raw_message.h"

#include <google/protobuf/stubs/logging.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/log.h"

namespace patchflow {
namespace {

// Protocol Buffers tells only its log which field is not UTF-8, so the parsing thread listens to
// it.
thread_local std::string* listening = nullptr;

void Listen(google::protobuf::LogLevel level, const char* file, int line,
            const std::string& message) {
  if (listening != nullptr) {
    *listening = message;
  } else if (level >= google::protobuf::LOGLEVEL_ERROR) {
    LogWarning("protobuf", {{"file", file}, {"line", line}, {"text", message}});
  }
}

// From "String field 'patchflow.v1.Prompt.text' contains invalid UTF-8 data ...".
std::string FieldOf(const std::string& complaint) {
  const size_t begin = complaint.find('\'');
  const size_t end = complaint.find('\'', begin + 1);
  if (complaint.rfind("String field", 0) != 0 || end == std::string::npos) {
    return "";
  }
  return complaint.substr(begin + 1, end - begin - 1);
}

}  // namespace

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message& message) {
  if (!bytes.Valid()) {
    return MakeError(absl::StatusCode::kCancelled, reason::kClientCancelled,
                     "the call ended before its request came");
  }
  static const bool installed = (google::protobuf::SetLogHandler(Listen), true);
  (void)installed;
  grpc::ByteBuffer copy = bytes;
  std::string complaint;
  listening = &complaint;
  bool parsed = false;
  {
    grpc::ProtoBufferReader reader(&copy);
    parsed = reader.status().ok() && message.ParseFromZeroCopyStream(&reader);
  }
  listening = nullptr;
  if (parsed) {
    return absl::OkStatus();
  }
  const std::string field = FieldOf(complaint);
  if (field.empty()) {
    return MakeError(absl::StatusCode::kInvalidArgument, reason::kMalformedRequest,
                     absl::StrCat("the request is no ", message.GetTypeName()));
  }
  return MakeError(absl::StatusCode::kInvalidArgument, reason::kMalformedRequest,
                   absl::StrCat(field, ": is not UTF-8"), {{"field", field}});
}

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message) {
  const size_t size = message.ByteSizeLong();
  grpc::Slice slice(size);
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return {&slice, 1};
}

}  // namespace patchflow
