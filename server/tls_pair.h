// A certificate and its private key, read and checked as a pair.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/config.h"

namespace patchflow {

struct TlsPair {
  std::string certificate;  // PEM, the chain.
  std::string key;          // PEM.
  std::string client_ca;    // PEM; empty unless client certificates are asked for.
  std::string subject;      // "CN=patchflow.example".
  absl::Time not_after;

  friend bool operator==(const TlsPair& a, const TlsPair& b) {
    return a.certificate == b.certificate && a.key == b.key && a.client_ca == b.client_ca;
  }
};

// Reads the files of at most 1 MiB each. INVALID_ARGUMENT naming the file and what is wrong: it
// cannot be read, holds no PEM, the key is another certificate's or encrypted, the certificate is
// not valid yet or no more at `now`.
absl::StatusOr<TlsPair> ReadTlsPair(const TlsConfig& config, absl::Time now);

}  // namespace patchflow
