// A pair whose files may be replaced while it is in use.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tls/tls_pair.h"

namespace patchflow {

// The last good pair. What is broken does not take its place, in whatever order files are written.
// Not thread-safe.
class KeptPair {
 public:
  // Puts a pair into use.
  using Use = std::function<absl::Status(const TlsPair&)>;
  struct Look {
    bool taken = false;  // A new pair is in use.
    absl::Status fault;  // Why what the files hold is not in use.
    bool news = false;   // `fault` is not that of the look before: to be told once.
  };

  // INVALID_ARGUMENT if the files cannot be used at `now`: see ReadTlsPair().
  static absl::StatusOr<KeptPair> Open(TlsFiles files, absl::Time now);

  const TlsPair& pair() const { return pair_; }
  // Reads the files, and gives what is new and good to `use`; it stays unused if that fails.
  Look LookAgain(absl::Time now, const Use& use);

 private:
  KeptPair(TlsFiles files, TlsPair pair) : files_(std::move(files)), pair_(std::move(pair)) {}

  TlsFiles files_;
  TlsPair pair_;
  absl::Status fault_;
};

}  // namespace patchflow
