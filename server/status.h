// absl::Status <-> grpc::Status: the only place.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace patchflow {

// google.rpc.Status with every payload as a detail. Trailers have little room (gRPC's default for
// all metadata of a call is 8 KiB): the message is cut to less than 1 KiB and the details to less
// than 4 KiB by leaving out the last field violations, and saying how many. An error without an
// ErrorInfo is a bug of ours: it becomes INTERNAL / INTERNAL and its text stays in the server.
grpc::Status ToGrpc(const absl::Status& status);

// Keeps code, message and details. A transport's own error has no details.
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace patchflow
