#include "worker/step_agreement.h"

#include <algorithm>

namespace patchflow {

bool StepAgreement::Continue(int step, bool stop_wanted) {
  const std::lock_guard lock(mutex_);
  if (stop_wanted) stop_at_ = std::min(stop_at_, highest_begun_ + 1);
  if (step >= stop_at_) return false;
  highest_begun_ = std::max(highest_begun_, step);
  return true;
}

}  // namespace patchflow
