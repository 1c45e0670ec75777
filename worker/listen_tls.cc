#include "worker/listen_tls.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tls/kept_pair.h"
#include "tls/periodic.h"
#include "tls/tls_credentials.h"
#include "worker/log.h"

namespace patchflow {
namespace {

constexpr absl::Duration kRefresh = absl::Seconds(10);

absl::Status CheckFlags(const WorkerFlags& flags) {
  const bool tls = !flags.tls_cert.empty();
  if (tls != !flags.tls_key.empty() || tls != !flags.tls_ca.empty()) {
    return absl::InvalidArgumentError("--tls-cert, --tls-key and --tls-ca go together");
  }
  if ((tls || flags.plaintext) && flags.listen.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(tls ? "--tls-cert" : "--plaintext", " has no meaning without --listen"));
  }
  if (tls && flags.plaintext) {
    return absl::InvalidArgumentError("--plaintext has no meaning with --tls-cert");
  }
  if (!tls && !flags.listen.empty() && !flags.plaintext) {
    return absl::InvalidArgumentError(
        absl::StrCat("--listen: ", flags.listen,
                     " would be open to whoever reaches it, on this host every user, without "
                     "encryption or authentication: add --tls-cert, --tls-key and --tls-ca, or say "
                     "--plaintext"));
  }
  return absl::OkStatus();
}

class OpenToAll final : public ListenTls {
 public:
  std::shared_ptr<grpc::ServerCredentials> credentials() const override {
    return grpc::InsecureServerCredentials();
  }
};

class MutualTls final : public ListenTls {
 public:
  MutualTls(KeptPair kept, std::unique_ptr<TlsCredentials> held)
      : kept_(std::move(kept)), held_(std::move(held)), look_(kRefresh, [this] { LookAgain(); }) {}

  std::shared_ptr<grpc::ServerCredentials> credentials() const override {
    return held_->of_listener();
  }

 private:
  void LookAgain() {
    const KeptPair::Look look =
        kept_.LookAgain(absl::Now(), [this](const TlsPair& pair) { return held_->Replace(pair); });
    if (look.taken) {
      Log(LogLevel::kInfo, "TLS files put into use", {{"subject", kept_.pair().subject}});
    } else if (look.news && !look.fault.ok()) {
      Log(LogLevel::kError, "files not put into use; the old ones stay",
          {{"why", std::string(look.fault.message())}});
    }
  }

  KeptPair kept_;
  const std::unique_ptr<TlsCredentials> held_;
  const Periodic look_;  // Ends first.
};

}  // namespace

absl::StatusOr<std::unique_ptr<ListenTls>> ListenTls::Open(const WorkerFlags& flags,
                                                           absl::Time now) {
  if (absl::Status status = CheckFlags(flags); !status.ok()) return status;
  if (flags.tls_cert.empty()) return std::make_unique<OpenToAll>();
  auto kept = KeptPair::Open(
      {{"--tls-cert", flags.tls_cert}, {"--tls-key", flags.tls_key}, {"--tls-ca", flags.tls_ca}},
      now);
  if (!kept.ok()) return kept.status();
  auto held = TlsCredentials::Make(kept->pair());
  if (!held.ok()) return held.status();
  return std::make_unique<MutualTls>(*std::move(kept), *std::move(held));
}

}  // namespace patchflow
