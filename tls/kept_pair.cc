#include "tls/kept_pair.h"

namespace patchflow {

absl::StatusOr<KeptPair> KeptPair::Open(TlsFiles files, absl::Time now) {
  auto pair = ReadTlsPair(files, now);
  if (!pair.ok()) {
    return pair.status();
  }
  return KeptPair(std::move(files), *std::move(pair));
}

KeptPair::Look KeptPair::LookAgain(absl::Time now, const Use& use) {
  Look look;
  auto pair = ReadTlsPair(files_, now);
  look.fault = pair.status();
  if (pair.ok() && !(*pair == pair_)) {
    look.fault = use(*pair);
    if (look.fault.ok()) {
      pair_ = *std::move(pair);
      look.taken = true;
    }
  }
  look.news = look.fault != fault_;
  fault_ = look.fault;
  return look;
}

}  // namespace patchflow
