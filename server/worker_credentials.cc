#include "server/worker_credentials.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <algorithm>

#include "absl/time/clock.h"
#include "server/tls_pair.h"

namespace patchflow {

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeWorkerCredentials(
    const WorkerLinks& links) {
  if (!links.tls.on()) {
    return grpc::InsecureChannelCredentials();
  }
  if (auto pair = ReadTlsPair(links.tls, absl::Now()); !pair.ok()) {
    return pair.status();
  }
  const auto refresh = std::max<int64_t>(1, absl::ToInt64Seconds(links.tls.refresh));
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(
      std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
          links.tls.key, links.tls.certificate, links.tls.client_ca,
          static_cast<unsigned>(refresh)));
  options.watch_identity_key_cert_pairs();
  options.watch_root_certs();
  return grpc::experimental::TlsCredentials(options);
}

}  // namespace patchflow
