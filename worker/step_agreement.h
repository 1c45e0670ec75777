// Lets the ranks of a group stop a job at the same step.
#pragma once

#include <limits>
#include <mutex>

namespace patchflow {

// One for each job, shared by its ranks. Thread-safe. The first rank to ask once a stop was wanted
// decides for all: they stop before the first step that none of them has begun, so that no rank
// waits for one that stopped earlier.
class StepAgreement {
 public:
  // Whether a rank shall begin `step`; the same answer for the same step, whichever rank asks and
  // when.
  bool Continue(int step, bool stop_wanted);

 private:
  std::mutex mutex_;
  int highest_begun_ = -1;
  int stop_at_ = std::numeric_limits<int>::max();
};

}  // namespace patchflow
