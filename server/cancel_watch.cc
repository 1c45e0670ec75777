#include "server/cancel_watch.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace patchflow {
namespace {

// The last bound of the histogram: whatever takes longer counts as this long and more.
constexpr absl::Duration kLongest = absl::Minutes(5);

}  // namespace

void CancelWatch::Enter() {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++holders_;
}

void CancelWatch::Leave() {
  const std::lock_guard<std::mutex> lock(mutex_);
  --holders_;
}

void CancelWatch::Cancelled(Clock::time_point when, Report report) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (holders_ == 0 && free_ < when) {
      waiting_.push_back({when, std::move(report)});
      return;
    }
  }
  report(absl::FromChrono(Clock::now() - when));
}

void CancelWatch::Heard(Clock::time_point began) { ReportBefore(began); }

void CancelWatch::Beat(worker::v1::WorkerState state) {
  const auto now = Clock::now();
  if (state != worker::v1::WORKER_STATE_BUSY) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_ = now;
  }
  ReportBefore(state != worker::v1::WORKER_STATE_BUSY ? now : now - ToClock(kLongest));
}

void CancelWatch::Lost() { Beat(worker::v1::WORKER_STATE_UNSPECIFIED); }

void CancelWatch::ReportBefore(Clock::time_point until) {
  std::vector<Waiting> free;
  const auto now = Clock::now();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto first = std::partition(waiting_.begin(), waiting_.end(),
                                      [&](const Waiting& one) { return one.when > until; });
    free.assign(std::make_move_iterator(first), std::make_move_iterator(waiting_.end()));
    waiting_.erase(first, waiting_.end());
  }
  for (const Waiting& one : free) {
    one.report(absl::FromChrono(now - one.when));
  }
}

}  // namespace patchflow
