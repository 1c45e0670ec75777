// TLS for listeners and connections, from a pair that may be replaced while they are in use.
#pragma once

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "tls/tls_pair.h"

namespace patchflow {

// gRPC's FileWatcherCertificateProvider puts whatever it finds into use, broken or not, and key and
// certificate one after the other. So it watches copies of ours instead, in memory files that no
// other process can open by name, which change only to pairs that were checked, and as a whole.
// Thread-safe; must outlive the listeners and channels that it is for.
class TlsCredentials {
 public:
  // UNAVAILABLE if the kernel gives no memory file.
  static absl::StatusOr<std::unique_ptr<TlsCredentials>> Make(const TlsPair& pair);
  virtual ~TlsCredentials() = default;

  // For connections that begin later than 1 s from now. A pair with authorities stays one.
  virtual absl::Status Replace(const TlsPair& pair) = 0;
  // Always the same. Clients must show a certificate of the pair's authorities if it has any.
  virtual std::shared_ptr<grpc::ServerCredentials> of_listener() const = 0;
  // Always the same; for a pair with authorities: the other end must show a certificate of theirs
  // that bears the name or address by which it is reached.
  virtual std::shared_ptr<grpc::ChannelCredentials> of_channels() const = 0;
};

}  // namespace patchflow
