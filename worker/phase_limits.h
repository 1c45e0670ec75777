// How long a rank may go without progress before it counts as hung.
#pragma once

#include <deque>
#include <map>
#include <mutex>
#include <tuple>

#include "absl/time/time.h"
#include "engine/engine.h"

namespace patchflow {

// How long the end of something may be waited for, learned from how long it took the last times:
// ten times their median.
class LearnedLimit {
 public:
  // But at least `least`; `first_run` while nothing is known.
  absl::Duration Limit(absl::Duration first_run, absl::Duration least) const;
  // Ten times the longest of the last ones instead of their median.
  absl::Duration LongestLimit(absl::Duration first_run, absl::Duration least) const;
  void Record(absl::Duration took);
  // Of what mostly takes no time because its result was kept: what took less than a hundredth of
  // the longest is not remembered. Every thousandth of them lets the oldest one be forgotten, so
  // that one that was far too long is not remembered for ever.
  void RecordUnlessKept(absl::Duration took);

 private:
  std::deque<absl::Duration> last_;
  int kept_ = 0;  // Since the last one was forgotten for them.
};

// A limit for each phase of each shape (size, branches, rows), learned from the longest pauses
// between two signs of progress. Text takes no time when its embedding was kept or made ahead:
// those do not count, and as one that was half made ahead does, the longest pause counts instead of
// the median. Thread-safe.
class PhaseLimits {
 public:
  explicit PhaseLimits(absl::Duration first_run, absl::Duration least = absl::Seconds(10))
      : first_run_(first_run), least_(least) {}

  absl::Duration Limit(const ImageRequest& request, Phase phase) const;
  // The longest pause of a job that went well.
  void Record(const ImageRequest& request, Phase phase, absl::Duration longest_pause);

 private:
  using Key = std::tuple<int, int, bool, int, Phase>;
  static Key KeyOf(const ImageRequest& request, Phase phase);

  absl::Duration first_run_;
  absl::Duration least_;
  mutable std::mutex mutex_;
  std::map<Key, LearnedLimit> pauses_;
};

}  // namespace patchflow
