// One job of a group of ranks: what each rank tells of itself, and the wait for all of them.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "worker/rank_trace.h"
#include "worker/step_agreement.h"

namespace patchflow {

// Where a rank stands.
struct RankPosition {
  std::optional<Phase> phase;  // Nothing before the first and when idle.
  int steps_done = 0;
  absl::Duration age;  // Since its last sign of progress.
};

// Shared by the ranks' threads and the one that waits; a rank that hangs for ever keeps its own job
// alive. Thread-safe.
class GroupJob {
 public:
  // An image: a rank that is CANCELLED or finds INVALID_ARGUMENT is no failure. `agreed`, where
  // ranks of other processes take part, says instead of `stop` whether a step is begun; called on
  // the ranks' threads, may block and throw.
  GroupJob(int ranks, ImageRequest request, std::stop_token stop,
           std::function<bool(int step)> agreed = nullptr);
  // Loading: every error is a failure.
  explicit GroupJob(int ranks);

  // For the thread of `rank`: the monitor lives no longer than the job.
  const ImageRequest& request() const { return request_; }
  std::unique_ptr<RequestMonitor> MonitorOf(int rank);
  void Finish(int rank, absl::StatusOr<Generated> result);

  struct Watch {
    // How long a rank may show no progress in `phase` (nothing: before its first).
    std::function<absl::Duration(std::optional<Phase> phase)> limit;
    // The newest position of the rank that is last. May be empty.
    std::function<void(Phase phase, int steps_done)> progress;
    // Unblocks ranks that wait for each other. May be empty.
    std::function<void(const std::string& reason)> abort;
    absl::Duration abort_timeout;
    int first_rank = 0;  // In the group: what errors call the first of these ranks.
  };
  // Returns when all ranks have finished, or abort_timeout after one has failed or hung. OK unless
  // one did: then the first error. Calls `watch` on this thread, holding no lock.
  absl::Status Await(const Watch& watch);

  // Once, after Await() said OK: the image and its times from the rank that has it, the highest
  // memory of all; CANCELLED or INVALID_ARGUMENT if any rank said so; INTERNAL if there is no
  // image, unless `has_image` is false.
  absl::StatusOr<Generated> TakeResult(bool has_image = true);
  std::vector<RankPosition> Positions() const;
  // By rank. A phase that has not ended ends now.
  std::vector<RankTrace> Traces() const;
  // Between two signs of progress, over all ranks.
  absl::Duration LongestPause(Phase phase) const;

 private:
  using Clock = std::chrono::steady_clock;
  class Monitor;
  struct Rank {
    std::optional<absl::StatusOr<Generated>> result;
    std::optional<Phase> phase;
    int steps_done = 0;
    RankTrace trace;
    Clock::time_point last_sign = Clock::now();
    absl::Duration without_sign;  // As watched, so that a stopped process counts for nothing.
    std::array<absl::Duration, 3> longest_pause = {};  // By phase.
  };

  void Sign(int rank, const std::function<void(Rank&)>& change);
  void Enter(int rank, Phase phase);
  bool Continue(int rank, int step);
  void Examine(absl::Duration passed, const Watch& watch);
  bool AllFinishedLocked() const;
  using Place = std::pair<int, int>;  // Phase and steps done.
  static constexpr Place kNowhere = {-1, -1};
  Place LastPlaceLocked() const;

  bool IsHarmless(const absl::Status& status) const;

  const bool loading_;
  const ImageRequest request_;
  const std::stop_token stop_;
  const std::function<bool(int step)> agreed_;
  StepAgreement agreement_;
  std::atomic<bool> failed_ = false;

  mutable std::mutex mutex_;
  std::condition_variable news_;
  std::vector<Rank> ranks_;
  absl::Status failure_;
};

}  // namespace patchflow
