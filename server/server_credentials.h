// TLS for the public listener, from files that may be replaced while it runs.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "server/tls_pair.h"

namespace patchflow {

// gRPC's FileWatcherCertificateProvider puts whatever it finds into use, broken or not, and key and
// certificate one after the other. So it watches copies of ours instead, in memory files that no
// other process can open by name, which change only to pairs that were checked, and as a whole.
// Thread-safe.
class TlsCredentials {
 public:
  // Client certificates are demanded if `pair` has a client_ca. UNAVAILABLE if the kernel gives no
  // memory file.
  static absl::StatusOr<std::unique_ptr<TlsCredentials>> Make(const TlsPair& pair);
  virtual ~TlsCredentials() = default;

  // For connections that begin later than 1 s from now. A pair with a client_ca stays one.
  virtual absl::Status Replace(const TlsPair& pair) = 0;
  virtual std::shared_ptr<grpc::ServerCredentials> credentials() const = 0;
};

}  // namespace patchflow
