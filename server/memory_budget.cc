#include "server/memory_budget.h"

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace patchflow {

void MemoryBudget::RanOut(const std::string& plan, int64_t pixels, Clock::time_point now) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto& [name, sizes] : ran_out_) {
    std::erase_if(sizes,
                  [now](const auto& size) { return now - size.second.last > ToClock(kHold); });
  }
  std::erase_if(ran_out_, [](const auto& of_plan) { return of_plan.second.empty(); });
  Times& times = ran_out_[plan][pixels];
  ++times.count;
  times.last = now;
}

void MemoryBudget::Fitted(const std::string& plan, int64_t pixels) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = ran_out_.find(plan);
  if (found == ran_out_.end()) {
    return;
  }
  auto& sizes = found->second;
  sizes.erase(sizes.begin(), sizes.upper_bound(pixels));
  if (sizes.empty()) {
    ran_out_.erase(found);
  }
}

absl::Status MemoryBudget::Check(const std::string& plan, int64_t width_px, int64_t height_px,
                                 Clock::time_point now) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = ran_out_.find(plan);
  if (found == ran_out_.end()) {
    return absl::OkStatus();
  }
  for (const auto& [pixels, times] : found->second) {
    const auto left = ToClock(kHold) - (now - times.last);
    if (pixels > width_px * height_px || times.count < kTimes || left <= Clock::duration::zero()) {
      continue;
    }
    return WithRetry(
        MakeError(
            absl::StatusCode::kResourceExhausted, reason::kGpuMemoryBudget,
            absl::StrCat("image: ", width_px, " x ", height_px, " is ", width_px * height_px,
                         " pixels, but images from ", pixels, " on ran out of GPU memory ",
                         times.count, " times lately"),
            {{"pixels", absl::StrCat(width_px * height_px)}, {"limit", absl::StrCat(pixels - 1)}}),
        absl::FromChrono(left));
  }
  return absl::OkStatus();
}

}  // namespace patchflow
