// Sizes that lately ran out of a device's memory.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/clock.h"

namespace patchflow {

// Running out of memory ends a worker, and its group loads anew: a size that did so kTimes, with
// no image of that size or a larger one made since, is refused for a while, and so are larger
// ones. Of one model; thread-safe.
class MemoryBudget {
 public:
  static constexpr int kTimes = 2;
  static constexpr absl::Duration kHold = absl::Minutes(10);  // From the last time on.

  // A run of nothing but images of this size, by a group of this plan, ended so.
  void RanOut(const std::string& plan, int64_t pixels, Clock::time_point now = Clock::now());
  // One of this size was made.
  void Fitted(const std::string& plan, int64_t pixels);
  // RESOURCE_EXHAUSTED / GPU_MEMORY_BUDGET with RetryInfo, naming the size and the limit.
  absl::Status Check(const std::string& plan, int64_t width_px, int64_t height_px,
                     Clock::time_point now = Clock::now()) const;

 private:
  struct Times {
    int count = 0;
    Clock::time_point last;
  };
  mutable std::mutex mutex_;
  std::map<std::string, std::map<int64_t, Times>> ran_out_;  // By plan and pixels.
};

}  // namespace patchflow
