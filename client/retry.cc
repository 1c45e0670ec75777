#include "client/retry.h"

#include <google/rpc/error_details.pb.h>

#include <algorithm>
#include <cmath>

#include "client/server_error.h"

namespace patchflow {

Retrier::Retrier(const RetryOptions& options, absl::Time deadline)
    : options_(options), deadline_(deadline) {}

std::optional<absl::Duration> Retrier::NextDelay(const absl::Status& status, absl::Time now) {
  const auto info = DetailOf<google::rpc::RetryInfo>(status);
  const bool again = absl::IsUnavailable(status) || (absl::IsResourceExhausted(status) && info);
  if (!again || retries_ >= options_.retries) return std::nullopt;
  absl::Duration delay;
  if (info) {
    delay = absl::Seconds(info->retry_delay().seconds()) +
            absl::Nanoseconds(info->retry_delay().nanos());
    delay = std::max(delay, absl::ZeroDuration());
  } else {
    delay = std::min(options_.first_delay * std::ldexp(1.0, retries_), options_.longest_delay);
    delay *= std::uniform_real_distribution(0.75, 1.0)(random_);
  }
  if (now + delay >= deadline_) return std::nullopt;
  ++retries_;
  return delay;
}

}  // namespace patchflow
