// What a gRPC call shows of its caller, and the answer to one that may not come in.
#pragma once

#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/server_context.h>

#include <memory>
#include <optional>

#include "server/guard.h"
#include "server/trace_context.h"

namespace patchflow {

Shown ShownBy(const grpc::ServerContextBase& context);

// Of its traceparent, if it has one that is well-formed.
std::optional<TraceContext> TraceParentOf(const grpc::ServerContextBase& context);

// Guards gRPC's own reflection service, whose handlers are not ours. For TLS only: gRPC 1.51 ends
// the process if a processor is set on insecure credentials, and drops error details. `guard` must
// outlive it.
std::shared_ptr<grpc::AuthMetadataProcessor> MakeReflectionGuard(const Guard& guard);

}  // namespace patchflow
