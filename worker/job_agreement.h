// Lets the ranks of a group stop a job at the same step when they are in several processes.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <limits>
#include <mutex>

#include "absl/time/time.h"

namespace patchflow {

// One for each job and process. Steps are counted through all images of the job (StepOfJob()). The
// decision is made outside, in two halves, so that no step costs a message while nobody wants to
// stop: Hold() in every process, then StopAt() in every process with the step after the last that
// any of them has begun. In between, a rank that comes to a step which no rank of its process has
// begun waits: the ranks that it could wait for in the step before all have that step before them,
// or behind. Thread-safe.
class JobAgreement {
 public:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  // A held rank waits no longer than `hold_limit` for StopAt().
  explicit JobAgreement(absl::Duration hold_limit = absl::Seconds(10)) : hold_limit_(hold_limit) {}

  // Whether a rank shall begin `step`; may block while held. Throws std::runtime_error when held
  // for too long: the ranks can't agree any more.
  bool Continue(int64_t step);

  // The last step that any rank of this process has begun; -1 before the first. No rank begins a
  // later one until StopAt().
  int64_t Hold();
  // No rank begins `step` or a later one.
  void StopAt(int64_t step);

 private:
  const absl::Duration hold_limit_;
  std::mutex mutex_;
  std::condition_variable decided_;
  int64_t last_begun_ = -1;
  bool held_ = false;
  int64_t stop_at_ = kNever;
};

// The number in its job of `step` of the image that is made as number `image`, both from 0.
inline int64_t StepOfJob(int image, int step) {
  constexpr int64_t kStepsOfImage = int64_t{1} << 32;
  return image * kStepsOfImage + step;
}

}  // namespace patchflow
