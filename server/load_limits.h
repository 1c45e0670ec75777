// How long the workers of a group may take until they are ready.
#pragma once

#include <deque>
#include <optional>

#include "absl/time/time.h"
#include "patchflow/worker/v1/worker.pb.h"
#include "server/clock.h"
#include "server/config.h"
#include "server/vital_signs.h"

namespace patchflow {

// Of one group, over all lives of its workers: loading and warming up have a limit each, ten times
// the median of the last 31, but at least `phase_timeout`. Before there is a median it is
// `load_timeout`: weights on a cold disk take minutes, and only whoever configures a model knows
// how many. Both together never have longer than that. Used by the supervisor's thread.
class LoadLimits {
 public:
  explicit LoadLimits(const Supervision& rules)
      : least_(rules.phase_timeout), most_(rules.load_timeout) {}

  absl::Duration Load() const { return Limit(loads_); }
  absl::Duration WarmUp() const { return Limit(warm_ups_); }
  absl::Duration Both() const { return most_; }
  // What a worker that is ready says of its way there.
  void Record(const worker::v1::DescribeResponse& info);

 private:
  absl::Duration Limit(const std::deque<absl::Duration>& last) const;

  const absl::Duration least_;
  const absl::Duration most_;
  std::deque<absl::Duration> loads_;
  std::deque<absl::Duration> warm_ups_;
};

// One worker on its way to being ready.
class LoadProgress {
 public:
  explicit LoadProgress(Clock::time_point began) : began_(began) {}

  // What its heartbeats say. To be called at each look: a change is dated by it.
  void See(worker::v1::WorkerState state);
  // It takes too long; the fault names the phase and the limit.
  std::optional<WorkerFault> Lateness(const LoadLimits& limits) const;

 private:
  Clock::time_point began_;
  std::optional<Clock::time_point> warms_up_since_;
};

}  // namespace patchflow
