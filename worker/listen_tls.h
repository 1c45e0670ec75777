// Who may reach the worker over TCP.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "worker/flags.h"

namespace patchflow {

// What is wrong with the flags of --listen, naming flag, file and reason: an address that other
// hosts reach without TLS and without --plaintext, files that don't go together, cannot be read or
// hold no PEM, a key that is another certificate's, a certificate that is not valid at `now`.
std::optional<std::string> CheckTls(const WorkerFlags& flags, absl::Time now);

// TLS that demands a certificate of --tls-ca, from files that are looked at again every 10 s (key
// and certificate must be replaced as one, as Kubernetes does); none without --tls-cert.
std::shared_ptr<grpc::ServerCredentials> ListenCredentials(const WorkerFlags& flags);

}  // namespace patchflow
