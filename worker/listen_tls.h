// Who may reach the worker over TCP.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/flags.h"

namespace patchflow {

// TLS that demands a certificate of --tls-ca. The files are looked at again every 10 s, on a thread
// of this: what is broken is logged once, and the last good pair stays in use. Must outlive the
// listener.
class ListenTls {
 public:
  // INVALID_ARGUMENT for what is wrong with the flags of --listen, naming flag, file and reason:
  // neither TLS nor --plaintext, of loopback too, where any user of the host could command the
  // worker; flags that don't go together; files that cannot be used at `now` (see ReadTlsPair()).
  static absl::StatusOr<std::unique_ptr<ListenTls>> Open(const WorkerFlags& flags, absl::Time now);
  virtual ~ListenTls() = default;

  // Without encryption or authentication if the flags name no files.
  virtual std::shared_ptr<grpc::ServerCredentials> credentials() const = 0;
};

}  // namespace patchflow
