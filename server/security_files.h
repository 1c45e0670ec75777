// Reads the TLS and token files again while the server runs.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "server/config.h"
#include "server/guard.h"
#include "server/metrics.h"
#include "tls/kept_pair.h"
#include "tls/periodic.h"

namespace patchflow {

// As faults name them.
TlsFiles FilesOf(const TlsConfig& config);

// What is broken is not put into use: the last good files stay, a metric and the log say so, and
// the next change is looked at again.
class SecurityFiles {
 public:
  // `guard` and `metrics` must outlive this. INVALID_ARGUMENT or NOT_FOUND if a file cannot be used
  // now.
  static absl::StatusOr<std::unique_ptr<SecurityFiles>> Open(const SecurityConfig& config,
                                                             Guard& guard, Metrics& metrics);
  SecurityFiles(const SecurityFiles&) = delete;
  SecurityFiles& operator=(const SecurityFiles&) = delete;

  // The pairs read first, of the public listener and of the links to workers; null without TLS.
  const TlsPair* tls() const { return tls_ ? &tls_->kept.pair() : nullptr; }
  const TlsPair* workers() const { return workers_ ? &workers_->kept.pair() : nullptr; }
  // Begins to look at each pair every `refresh` of its own, and at the tokens with the first.
  // The functions put new pairs into use; each is called on one thread of this until it is
  // destroyed, and from then on neither function above may be called.
  void Watch(KeptPair::Use use_tls, KeptPair::Use use_workers);

 private:
  struct Pair {
    const char* what;
    KeptPair kept;
    SecurityMetrics& metrics;
    KeptPair::Use use;
  };

  SecurityFiles(const SecurityConfig& config, Guard& guard, Metrics& metrics);
  absl::Status OpenPair(const TlsConfig& config, const char* what, std::optional<Pair>& pair);
  void LookAtTokens();

  const SecurityConfig config_;
  Guard& guard_;
  Metrics& metrics_;
  std::optional<Pair> tls_;
  std::optional<Pair> workers_;
  absl::Status tokens_fault_;  // Told last, so that each is logged once.

  std::unique_ptr<Periodic> look_;  // These end first.
  std::unique_ptr<Periodic> look_at_workers_;
};

}  // namespace patchflow
