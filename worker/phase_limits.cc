#include "worker/phase_limits.h"

#include <algorithm>
#include <vector>

namespace patchflow {
namespace {

constexpr absl::Duration kLeast = absl::Seconds(10);
constexpr int kTimesMany = 10;
constexpr size_t kRemembered = 31;
constexpr size_t kShapes = 4096;

}  // namespace

PhaseLimits::Key PhaseLimits::KeyOf(const ImageRequest& request, Phase phase) {
  return {request.width_px, request.height_px, request.guidance_scale == 1, phase};
}

absl::Duration PhaseLimits::Limit(const ImageRequest& request, Phase phase) const {
  const std::lock_guard lock(mutex_);
  const auto known = pauses_.find(KeyOf(request, phase));
  if (known == pauses_.end()) return first_run_;
  std::vector<absl::Duration> sorted(known->second.begin(), known->second.end());
  std::sort(sorted.begin(), sorted.end());
  const absl::Duration usual = phase == Phase::kText ? sorted.back() : sorted[sorted.size() / 2];
  return std::max(kLeast, kTimesMany * usual);
}

void PhaseLimits::Record(const ImageRequest& request, Phase phase, absl::Duration longest_pause) {
  const std::lock_guard lock(mutex_);
  if (pauses_.size() >= kShapes) pauses_.clear();
  std::deque<absl::Duration>& pauses = pauses_[KeyOf(request, phase)];
  pauses.push_back(longest_pause);
  if (pauses.size() > kRemembered) pauses.pop_front();
}

}  // namespace patchflow
