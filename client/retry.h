// When a call is made again.
#pragma once

#include <functional>
#include <optional>
#include <random>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace patchflow {

struct RetryOptions {
  int retries = 5;
  absl::Duration first_delay =
      absl::Milliseconds(250);  // Doubles up to the longest, less up to a quarter by chance.
  absl::Duration longest_delay = absl::Seconds(8);
};

// Counts the retries of one call.
class Retrier {
 public:
  Retrier(const RetryOptions& options, absl::Time deadline);

  // How long to wait before the next try; nothing if `status` is final: neither UNAVAILABLE nor
  // RESOURCE_EXHAUSTED with a RetryInfo, no retry left, or the deadline would pass meanwhile. A
  // RetryInfo's delay is kept to.
  std::optional<absl::Duration> NextDelay(const absl::Status& status, absl::Time now);

  int retries() const { return retries_; }

 private:
  const RetryOptions options_;
  const absl::Time deadline_;
  int retries_ = 0;
  std::minstd_rand random_{std::random_device()()};
};

}  // namespace patchflow
