#include "worker/phase_limits.h"

#include <algorithm>
#include <vector>

namespace patchflow {
namespace {

constexpr int kTimesMany = 10;
constexpr size_t kRemembered = 31;
constexpr size_t kShapes = 4096;
constexpr int kKeptTimesShorter = 100;
constexpr int kKeptPerForgotten = 1000;

}  // namespace

absl::Duration LearnedLimit::Limit(absl::Duration first_run, absl::Duration least) const {
  if (last_.empty()) return first_run;
  std::vector<absl::Duration> sorted(last_.begin(), last_.end());
  std::sort(sorted.begin(), sorted.end());
  return std::max(least, kTimesMany * sorted[sorted.size() / 2]);
}

absl::Duration LearnedLimit::LongestLimit(absl::Duration first_run, absl::Duration least) const {
  if (last_.empty()) return first_run;
  return std::max(least, kTimesMany * *std::max_element(last_.begin(), last_.end()));
}

void LearnedLimit::Record(absl::Duration took) {
  last_.push_back(took);
  if (last_.size() > kRemembered) last_.pop_front();
}

void LearnedLimit::RecordUnlessKept(absl::Duration took) {
  const auto longest = std::max_element(last_.begin(), last_.end());
  if (longest == last_.end() || kKeptTimesShorter * took >= *longest) {
    Record(took);
  } else if (++kept_ == kKeptPerForgotten) {
    kept_ = 0;
    last_.pop_front();
  }
}

PhaseLimits::Key PhaseLimits::KeyOf(const ImageRequest& request, Phase phase) {
  return {request.width_px, request.height_px, request.guidance_scale == 1, request.batch_size,
          phase};
}

absl::Duration PhaseLimits::Limit(const ImageRequest& request, Phase phase) const {
  const std::lock_guard lock(mutex_);
  const auto known = pauses_.find(KeyOf(request, phase));
  if (known == pauses_.end()) return first_run_;
  return phase == Phase::kText ? known->second.LongestLimit(first_run_, least_)
                               : known->second.Limit(first_run_, least_);
}

void PhaseLimits::Record(const ImageRequest& request, Phase phase, absl::Duration longest_pause) {
  const std::lock_guard lock(mutex_);
  if (pauses_.size() >= kShapes) pauses_.clear();
  LearnedLimit& limit = pauses_[KeyOf(request, phase)];
  if (phase == Phase::kText) {
    limit.RecordUnlessKept(longest_pause);
  } else {
    limit.Record(longest_pause);
  }
}

}  // namespace patchflow
