// The ranks that make one image together: a thread each, the same job to all, one fate.
#pragma once

#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "worker/group_job.h"

namespace patchflow {

struct RankGroupOptions {
  int ranks = 1;       // Of this process.
  int first_rank = 0;  // The lowest of them in the group; 0 makes images, others take part alone.
  // Makes the engine of the rank-th of them, on the rank's thread, which alone uses and destroys
  // it. Called for all ranks at once.
  std::function<absl::StatusOr<std::unique_ptr<Engine>>(int rank)> make_engine;
  // Unblocks every rank that waits for another, now and for ever. Thread-safe. May be empty.
  std::function<void(const std::string& reason)> abort;
  absl::Duration load_timeout = absl::Minutes(30);
  absl::Duration first_run_timeout = absl::Seconds(120);  // See PhaseLimits.
  absl::Duration phase_timeout = absl::Seconds(10);
  absl::Duration abort_timeout = absl::Seconds(5);  // From abort() until the ranks are given up.
};

// A fault on one rank is a fault of the group: the first error is kept, abort() is called, and the
// group is of no further use. Every wait is bounded: a rank that shows no progress within
// PhaseLimits counts as failed, and one that does not come back within abort_timeout after abort()
// is left behind with its thread.
class RankGroup {
 public:
  // Blocks until every rank has loaded. The first rank's error; UNAVAILABLE / ENGINE_FAILED after
  // load_timeout, and then a thread may be left behind.
  static absl::StatusOr<std::unique_ptr<RankGroup>> Start(RankGroupOptions options);
  ~RankGroup();  // Stop().

  // Makes one image on all ranks; blocks; one call at a time. `progress` is told on the calling
  // thread how far the last rank is, the newest position only; it may be empty. `agreed`: see
  // GroupJob. Without rank 0 the result has no image. `traces`, unless
  // null, is set to what every rank did, whatever came of it. Statuses as
  // Engine::Generate, and UNAVAILABLE / ENGINE_FAILED for a rank that hangs and for a group that
  // has failed before. All but OK, CANCELLED and INVALID_ARGUMENT end the group.
  absl::StatusOr<Generated> Run(const ImageRequest& request, std::stop_token stop,
                                const std::function<void(Phase phase, int steps_done)>& progress,
                                std::vector<RankTrace>* traces = nullptr,
                                std::function<bool(int step)> agreed = nullptr);

  // Ends the ranks, which destroy their engines. False if a thread did not come back within
  // abort_timeout and was left behind: the process must then end without running destructors.
  // Idempotent; not while Run() runs.
  bool Stop();

  // Thread-safe.
  absl::Status failure() const;  // What ended the group; OK before.
  std::vector<RankPosition> Positions() const;
  const ModelDescription& description() const;
  const std::vector<LoadedComponent>& components() const;  // Of the first rank.

 private:
  struct State;
  explicit RankGroup(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace patchflow
