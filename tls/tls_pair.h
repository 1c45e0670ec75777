// A certificate and its private key, read and checked as a pair.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace patchflow {

// Of PEM.
struct TlsFiles {
  struct File {
    std::string name;  // Whatever named the file, for faults: "security.tls.key", "--tls-key".
    std::string path;
  };
  File certificate;
  File key;
  File authorities;  // By whom the other end's certificate must be signed. No path: it shows none.
};

struct TlsPair {
  std::string certificate;  // PEM, the chain.
  std::string key;          // PEM.
  std::string authorities;  // PEM; empty where the other end shows no certificate.
  std::string subject;      // "CN = patchflow.example".
  absl::Time not_after;

  friend bool operator==(const TlsPair& a, const TlsPair& b) {
    return a.certificate == b.certificate && a.key == b.key && a.authorities == b.authorities;
  }
};

// Reads the files of at most 1 MiB each. INVALID_ARGUMENT naming the file and what is wrong: it
// cannot be read, holds no PEM, the key is another certificate's or encrypted, the certificate is
// not valid yet or no more at `now`.
absl::StatusOr<TlsPair> ReadTlsPair(const TlsFiles& files, absl::Time now);

}  // namespace patchflow
