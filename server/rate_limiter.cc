#include "server/rate_limiter.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/random.h"

namespace patchflow {
namespace {

constexpr size_t kMaxClients = 16384;

}  // namespace

RateLimiter::RateLimiter(double per_second, double burst, Now now)
    : per_second_(per_second), burst_(burst), now_(std::move(now)) {}

double RateLimiter::TokensAt(const Bucket& bucket, Clock::time_point now) const {
  const double seconds = std::chrono::duration<double>(now - bucket.filled).count();
  return std::min(burst_, bucket.tokens + seconds * per_second_);
}

absl::Status RateLimiter::Take(const std::string& client) {
  if (per_second_ <= 0) {
    return absl::OkStatus();
  }
  const auto now = now_();
  std::lock_guard<std::mutex> lock(mutex_);
  if (buckets_.size() >= kMaxClients && buckets_.count(client) == 0) {
    ForgetFull(now);
  }
  Bucket& bucket = buckets_.try_emplace(client, Bucket{burst_, now}).first->second;
  bucket = {TokensAt(bucket, now), now};
  if (bucket.tokens >= 1) {
    bucket.tokens -= 1;
    return absl::OkStatus();
  }
  const absl::Duration wait = absl::Seconds((1 - bucket.tokens) / per_second_);
  const std::string limit = absl::StrCat(per_second_, " requests a second");
  return WithQuota(WithRetry(MakeError(absl::StatusCode::kResourceExhausted, reason::kRateLimited,
                                       absl::StrCat("more than ", limit, " (", burst_, " at once)"),
                                       {{"requests_per_second", absl::StrCat(per_second_)},
                                        {"burst", absl::StrCat(burst_)}}),
                             Jittered(wait)),
                   "client", limit);
}

void RateLimiter::ForgetFull(Clock::time_point now) {
  for (auto it = buckets_.begin(); it != buckets_.end();) {
    if (TokensAt(it->second, now) >= burst_) {
      it = buckets_.erase(it);
    } else {
      ++it;
    }
  }
  if (buckets_.size() < kMaxClients) {
    return;
  }
  const auto fullest =
      std::max_element(buckets_.begin(), buckets_.end(), [&](const auto& a, const auto& b) {
        return TokensAt(a.second, now) < TokensAt(b.second, now);
      });
  buckets_.erase(fullest);
}

size_t RateLimiter::clients() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return buckets_.size();
}

}  // namespace patchflow
