#include "server/security_files.h"

#include <utility>

#include "absl/time/clock.h"
#include "server/log.h"

namespace patchflow {
namespace {

// Counts, logs and remembers a fault, or that there is none any more.
void Note(SecurityMetrics& metrics, const char* what, const absl::Status& status,
          std::string& told) {
  const std::string fault = status.ok() ? "" : std::string(status.message());
  metrics.broken->Set(status.ok() ? 0 : 1);
  if (fault == told) {
    return;
  }
  if (!status.ok()) {
    metrics.failures->Increment();
    LogError("files not put into use; the old ones stay", {{"what", what}, {"why", fault}});
  }
  told = fault;
}

}  // namespace

SecurityFiles::SecurityFiles(const SecurityConfig& config, Guard& guard, Metrics& metrics)
    : config_(config), guard_(guard), metrics_(metrics) {}

absl::StatusOr<std::unique_ptr<SecurityFiles>> SecurityFiles::Open(const SecurityConfig& config,
                                                                   Guard& guard, Metrics& metrics) {
  std::unique_ptr<SecurityFiles> files(new SecurityFiles(config, guard, metrics));
  if (config.tls.on()) {
    auto pair = ReadTlsPair(config.tls, absl::Now());
    if (!pair.ok()) {
      return pair.status();
    }
    metrics.certificate_expiry().Set(absl::ToDoubleSeconds(pair->not_after - absl::UnixEpoch()));
    files->pair_ = *std::move(pair);
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

SecurityFiles::~SecurityFiles() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) {
    thread_.join();
  }
}

void SecurityFiles::Watch(std::function<absl::Status(const TlsPair&)> use) {
  use_ = std::move(use);
  if (config_.tls.on() || !config_.tokens.empty()) {
    thread_ = std::thread([this] { Run(); });
  }
}

void SecurityFiles::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!changed_.wait_for(lock, ToClock(config_.tls.refresh), [this] { return stopping_; })) {
    lock.unlock();
    if (config_.tls.on()) {
      LookAtTls();
    }
    if (!config_.tokens.empty()) {
      LookAtTokens();
    }
    lock.lock();
  }
}

void SecurityFiles::LookAtTls() {
  auto pair = ReadTlsPair(config_.tls, absl::Now());
  absl::Status status = pair.status();
  if (pair.ok() && !(*pair == *pair_)) {
    status = use_(*pair);
    if (status.ok()) {
      LogInfo("TLS files put into use", {{"subject", pair->subject}});
      metrics_.certificate_expiry().Set(absl::ToDoubleSeconds(pair->not_after - absl::UnixEpoch()));
      pair_ = *std::move(pair);
    }
  }
  Note(metrics_.security("tls"), "tls", status, tls_fault_);
}

void SecurityFiles::LookAtTokens() {
  auto tokens = TokenTable::Load(config_.tokens);
  const absl::Status status = tokens.status();
  if (status.ok()) {
    guard_.SetTokens(std::make_shared<const TokenTable>(*std::move(tokens)));
  }
  Note(metrics_.security("tokens"), "tokens", status, tokens_fault_);
}

}  // namespace patchflow
