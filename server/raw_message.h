// Messages of methods that are registered raw: gRPC hands over bytes, so that bytes which are no
// message can be answered with an error of ours. (Its generated handlers answer UNIMPLEMENTED and
// never call.)
#pragma once

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/byte_buffer.h>

#include "absl/status/status.h"
#include "google/protobuf/message.h"

namespace patchflow {

// INVALID_ARGUMENT / MALFORMED_REQUEST, naming the string field that is not UTF-8 if that is what
// is wrong. CANCELLED / CLIENT_CANCELLED if the client was gone before its message came (gRPC calls
// the handler all the same).
absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message& message);

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message);

}  // namespace patchflow
