#include "server/load_limits.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

constexpr int kTimesMany = 10;
constexpr size_t kRemembered = 31;

void Remember(absl::Duration took, std::deque<absl::Duration>& last) {
  last.push_back(took);
  if (last.size() > kRemembered) {
    last.pop_front();
  }
}

WorkerFault Late(absl::Duration limit, const char* phase) {
  WorkerFault late{absl::StrCat("not ready after ", absl::FormatDuration(limit), ", in ", phase),
                   LossKind::kLoadTimeout, false};
  late.detail.watchdog_phase = phase;
  return late;
}

}  // namespace

absl::Duration LoadLimits::Limit(const std::deque<absl::Duration>& last) const {
  if (last.empty()) {
    return most_;
  }
  std::vector<absl::Duration> sorted(last.begin(), last.end());
  std::sort(sorted.begin(), sorted.end());
  return std::min(most_, std::max(least_, kTimesMany * sorted[sorted.size() / 2]));
}

void LoadLimits::Record(const worker::v1::DescribeResponse& info) {
  const absl::Duration warm_up = FromProto(info.warmup_time());
  Remember(FromProto(info.load_time()) - warm_up, loads_);
  Remember(warm_up, warm_ups_);
}

void LoadProgress::See(worker::v1::WorkerState state) {
  if (state == worker::v1::WORKER_STATE_WARMING && !warms_up_since_.has_value()) {
    warms_up_since_ = Clock::now();
  }
}

std::optional<WorkerFault> LoadProgress::Lateness(const LoadLimits& limits) const {
  const auto now = Clock::now();
  const bool warms_up = warms_up_since_.has_value();
  const char* const phase = warms_up ? "warm_up" : "load";
  const absl::Duration limit = warms_up ? limits.WarmUp() : limits.Load();
  if (absl::FromChrono(now - warms_up_since_.value_or(began_)) > limit) {
    return Late(limit, phase);
  }
  if (absl::FromChrono(now - began_) > limits.Both()) {
    return Late(limits.Both(), phase);
  }
  return std::nullopt;
}

}  // namespace patchflow
