// How workers of other hosts know the front end, and the front end them.
#pragma once

#include <grpcpp/security/credentials.h>

#include <memory>

#include "absl/status/statusor.h"
#include "server/config.h"

namespace patchflow {

// For workers over TCP: TLS in which both ends show a certificate, and the worker's must bear the
// name or address under which it is configured; without TLS if `links` has none. The files are
// read again every `links.tls.refresh`, for connections that begin later: key and certificate must
// be replaced as one, as Kubernetes does. INVALID_ARGUMENT if they cannot be used now: see
// ReadTlsPair().
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeWorkerCredentials(
    const WorkerLinks& links);

}  // namespace patchflow
