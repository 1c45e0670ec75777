// Reads the TLS and token files again while the server runs.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "server/config.h"
#include "server/guard.h"
#include "server/metrics.h"
#include "server/tls_pair.h"

namespace patchflow {

// What is broken is not put into use: the last good files stay, a metric and the log say so, and
// the next change is looked at again. Thread-safe.
class SecurityFiles {
 public:
  // `guard` and `metrics` must outlive this. INVALID_ARGUMENT or NOT_FOUND if a file cannot be used
  // now.
  static absl::StatusOr<std::unique_ptr<SecurityFiles>> Open(const SecurityConfig& config,
                                                             Guard& guard, Metrics& metrics);
  ~SecurityFiles();
  SecurityFiles(const SecurityFiles&) = delete;
  SecurityFiles& operator=(const SecurityFiles&) = delete;

  // The pair read first; nothing without TLS.
  const std::optional<TlsPair>& pair() const { return pair_; }
  // Begins to look, every `config.tls.refresh`. `use` puts a new pair into use; called on a thread
  // of this.
  void Watch(std::function<absl::Status(const TlsPair&)> use);

 private:
  SecurityFiles(const SecurityConfig& config, Guard& guard, Metrics& metrics);
  void Run();
  void LookAtTls();
  void LookAtTokens();

  const SecurityConfig config_;
  Guard& guard_;
  Metrics& metrics_;
  std::function<absl::Status(const TlsPair&)> use_;
  std::optional<TlsPair> pair_;
  std::string tls_fault_;  // Told last, so that each is logged once.
  std::string tokens_fault_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace patchflow
