#include "worker/watch_call.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "worker/convert.h"

namespace patchflow {
namespace {

constexpr absl::Duration kInterval = absl::Milliseconds(500);
constexpr absl::Duration kLeastInterval = absl::Milliseconds(50);

absl::Duration IntervalOf(const worker::v1::WatchRequest& request) {
  if (!request.has_interval()) return kInterval;
  return std::max(kLeastInterval, absl::Seconds(request.interval().seconds()) +
                                      absl::Nanoseconds(request.interval().nanos()));
}

worker::v1::WatchResponse BeatOf(const Worker& worker, const Worker::Snapshot& snapshot) {
  worker::v1::WatchResponse beat;
  beat.set_state(StateOf(snapshot.state));
  beat.set_failure(snapshot.failure);
  int rank = 0;
  if (const Membership* membership = worker.membership()) {
    beat.set_epoch(membership->ownership().epoch);
    rank = membership->place().value_or(Place()).first_rank;
  }
  for (const RankFigures& figures : worker.Figures()) {
    *beat.add_ranks() = RankStatusOf(rank++, figures);
  }
  return beat;
}

}  // namespace

WatchReactor::WatchReactor(Worker& worker, const worker::v1::WatchRequest& request,
                           std::function<void()> on_done)
    : interval_(IntervalOf(request)), on_done_(std::move(on_done)) {
  std::thread([this, &worker] { Beat(worker); }).detach();
}

void WatchReactor::Beat(Worker& worker) {
  bool good = true;
  while (good && !stop_.stop_requested()) {
    const Worker::Snapshot snapshot = worker.Describe();
    good = Write(BeatOf(worker, snapshot));
    if (good) worker.WaitForChange(snapshot.version, interval_, stop_.get_token());
  }
  Finish(grpc::Status::OK);  // The last that this thread does: OnDone() may already have run.
}

bool WatchReactor::Write(const worker::v1::WatchResponse& beat) {
  std::unique_lock lock(mutex_);
  writing_ = true;
  lock.unlock();
  StartWrite(&beat);
  lock.lock();
  written_.wait(lock, [this] { return !writing_; });
  return !write_failed_;
}

void WatchReactor::OnWriteDone(bool ok) {
  const std::lock_guard lock(mutex_);
  writing_ = false;
  write_failed_ = !ok;
  written_.notify_all();
}

void WatchReactor::OnDone() {
  on_done_();
  delete this;
}

}  // namespace patchflow
