#include "worker/job_agreement.h"

#include <algorithm>
#include <stdexcept>

#include "absl/strings/str_cat.h"

namespace patchflow {

bool JobAgreement::Continue(int64_t step) {
  std::unique_lock lock(mutex_);
  const auto free = [&] { return !held_ || step <= last_begun_; };
  if (!decided_.wait_for(lock, absl::ToChronoNanoseconds(hold_limit_), free)) {
    throw std::runtime_error(absl::StrCat("the job was held for ",
                                          absl::FormatDuration(hold_limit_),
                                          " and nobody said where to stop"));
  }
  if (step >= stop_at_) return false;
  last_begun_ = std::max(last_begun_, step);
  return true;
}

int64_t JobAgreement::Hold() {
  const std::lock_guard lock(mutex_);
  held_ = stop_at_ == kNever;
  return last_begun_;
}

void JobAgreement::StopAt(int64_t step) {
  const std::lock_guard lock(mutex_);
  stop_at_ = std::min(stop_at_, step);
  held_ = false;
  decided_.notify_all();
}

}  // namespace patchflow
