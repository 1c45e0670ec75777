#include "server/security_files.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/log.h"

namespace patchflow {
namespace {

// Counts a fault, or that there is none any more; logs it if it is news.
void Note(SecurityMetrics& metrics, const char* what, const absl::Status& fault, bool news) {
  metrics.broken->Set(fault.ok() ? 0 : 1);
  if (news && !fault.ok()) {
    metrics.failures->Increment();
    LogError("files not put into use; the old ones stay",
             {{"what", what}, {"why", std::string(fault.message())}});
  }
}

void SetExpiry(SecurityMetrics& metrics, const TlsPair& pair) {
  metrics.certificate_expiry->Set(absl::ToDoubleSeconds(pair.not_after - absl::UnixEpoch()));
}

}  // namespace

TlsFiles FilesOf(const TlsConfig& config) {
  return {{config.name + ".certificate", config.certificate},
          {config.name + ".key", config.key},
          {absl::StrCat(config.name, ".", config.ca_name), config.client_ca}};
}

SecurityFiles::SecurityFiles(const SecurityConfig& config, Guard& guard, Metrics& metrics)
    : config_(config), guard_(guard), metrics_(metrics) {}

absl::StatusOr<std::unique_ptr<SecurityFiles>> SecurityFiles::Open(const SecurityConfig& config,
                                                                   Guard& guard, Metrics& metrics) {
  std::unique_ptr<SecurityFiles> files(new SecurityFiles(config, guard, metrics));
  absl::Status status = files->OpenPair(config.tls, "tls", files->tls_);
  status.Update(files->OpenPair(config.workers.tls, "workers", files->workers_));
  if (!status.ok()) {
    return status;
  }
  if (!config.tokens.empty()) {
    auto tokens = TokenTable::Load(config.tokens);
    if (!tokens.ok()) {
      return tokens.status();
    }
    guard.SetTokens(std::make_shared<const TokenTable>(*std::move(tokens)));
  }
  return files;
}

absl::Status SecurityFiles::OpenPair(const TlsConfig& config, const char* what,
                                     std::optional<Pair>& pair) {
  if (!config.on()) {
    return absl::OkStatus();
  }
  auto kept = KeptPair::Open(FilesOf(config), absl::Now());
  if (kept.ok()) {
    pair.emplace(Pair{what, *std::move(kept), metrics_.security(what), nullptr});
    SetExpiry(pair->metrics, pair->kept.pair());
  }
  return kept.status();
}

void SecurityFiles::Watch(KeptPair::Use use_tls, KeptPair::Use use_workers) {
  const auto look_at = [](Pair& pair) {
    const KeptPair::Look look = pair.kept.LookAgain(absl::Now(), pair.use);
    if (look.taken) {
      LogInfo("TLS files put into use",
              {{"what", pair.what}, {"subject", pair.kept.pair().subject}});
      SetExpiry(pair.metrics, pair.kept.pair());
    }
    Note(pair.metrics, pair.what, look.fault, look.news);
  };
  if (tls_ || !config_.tokens.empty()) {
    if (tls_) {
      tls_->use = std::move(use_tls);
    }
    look_ = std::make_unique<Periodic>(config_.tls.refresh, [this, look_at] {
      if (tls_) {
        look_at(*tls_);
      }
      if (!config_.tokens.empty()) {
        LookAtTokens();
      }
    });
  }
  if (workers_) {
    workers_->use = std::move(use_workers);
    look_at_workers_ = std::make_unique<Periodic>(config_.workers.tls.refresh,
                                                  [this, look_at] { look_at(*workers_); });
  }
}

void SecurityFiles::LookAtTokens() {
  auto tokens = TokenTable::Load(config_.tokens);
  const absl::Status fault = tokens.status();
  if (fault.ok()) {
    guard_.SetTokens(std::make_shared<const TokenTable>(*std::move(tokens)));
  }
  Note(metrics_.security("tokens"), "tokens", fault, fault != tokens_fault_);
  tokens_fault_ = fault;
}

}  // namespace patchflow
