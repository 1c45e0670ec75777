// Statuses as they leave the worker.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace patchflow {

// google.rpc.Status with one ErrorInfo (domain "patchflow"): the reason that the status carries, or
// INTERNAL. Trailers have little room: the message is cut to 1 KiB.
grpc::Status RpcStatusOf(const absl::Status& status);

}  // namespace patchflow
