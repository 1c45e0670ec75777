#include "worker/watch_call.h"

#include <algorithm>
#include <thread>

#include "worker/convert.h"
#include "worker/log.h"

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
  if (snapshot.device_fault.has_value()) {
    *beat.mutable_device_fault() = DeviceFaultOf(*snapshot.device_fault);
  }
  beat.set_watchdog_phase(snapshot.watchdog_phase);
  beat.set_nccl_errors(worker.NcclErrors());
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

bool Watchers::Enter(int limit) {
  const std::lock_guard lock(mutex_);
  if (untold_ + told_ >= limit) return false;
  ++untold_;
  return true;
}

void Watchers::Tell() {
  const std::lock_guard lock(mutex_);
  --untold_;
  ++told_;
  changed_.notify_all();
}

void Watchers::Leave(bool told) {
  const std::lock_guard lock(mutex_);
  --(told ? told_ : untold_);
  changed_.notify_all();
}

bool Watchers::AwaitTold(absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout),
                           [this] { return untold_ == 0; });
}

WatchReactor::WatchReactor(Worker& worker, const worker::v1::WatchRequest& request,
                           Watchers& watchers)
    : interval_(IntervalOf(request)), watchers_(watchers) {
  if (!request.log_level().empty() && !SetLogLevel(request.log_level())) {
    Log(LogLevel::kWarning, "a level of log that is none", {{"level", request.log_level()}});
  }
  std::thread([this, &worker] { Beat(worker); }).detach();
}

void WatchReactor::Beat(Worker& worker) {
  bool good = true;
  while (good && !stop_.stop_requested()) {
    const Worker::Snapshot snapshot = worker.Describe();
    good = Write(BeatOf(worker, snapshot));
    if (good && !told_ && snapshot.state == WorkerState::kFailed) {
      told_ = true;
      watchers_.Tell();
    }
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
  watchers_.Leave(told_);
  delete this;
}

}  // namespace patchflow
