// How many requests a client may send in a time.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "server/clock.h"

namespace patchflow {

// A bucket of tokens for each client: `burst` at first, filled again at `per_second`, a token a
// request. Clients whose bucket is full are forgotten; beyond 16384 the fullest are. Thread-safe.
class RateLimiter {
 public:
  using Now = std::function<Clock::time_point()>;
  // per_second 0: no limit. burst >= 1.
  RateLimiter(
      double per_second, double burst, Now now = [] { return Clock::now(); });

  // Takes a token. RESOURCE_EXHAUSTED / RATE_LIMITED, with RetryInfo until there is one and a
  // QuotaFailure, if there is none.
  absl::Status Take(const std::string& client);
  size_t clients() const;

 private:
  struct Bucket {
    double tokens;
    Clock::time_point filled;
  };
  void ForgetFull(Clock::time_point now);
  double TokensAt(const Bucket& bucket, Clock::time_point now) const;

  const double per_second_;
  const double burst_;
  const Now now_;
  mutable std::mutex mutex_;
  std::map<std::string, Bucket> buckets_;
};

}  // namespace patchflow
