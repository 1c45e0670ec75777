// How long a rank may go without progress before it counts as hung.
#pragma once

#include <deque>
#include <map>
#include <mutex>
#include <tuple>

#include "absl/time/time.h"
#include "engine/engine.h"

namespace patchflow {

// Learned for each phase of each shape (size, branches): ten times the median of the longest pauses
// between two signs of progress in the last jobs, but at least 10 s; `first_run` before there was a
// job. Text takes no time when its embedding was kept, so there the longest pause counts instead of
// the median. Thread-safe.
class PhaseLimits {
 public:
  explicit PhaseLimits(absl::Duration first_run) : first_run_(first_run) {}

  absl::Duration Limit(const ImageRequest& request, Phase phase) const;
  // The longest pause of a job that went well.
  void Record(const ImageRequest& request, Phase phase, absl::Duration longest_pause);

 private:
  using Key = std::tuple<int, int, bool, Phase>;
  static Key KeyOf(const ImageRequest& request, Phase phase);

  absl::Duration first_run_;
  mutable std::mutex mutex_;
  std::map<Key, std::deque<absl::Duration>> pauses_;
};

}  // namespace patchflow
