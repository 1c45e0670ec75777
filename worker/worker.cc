#include "worker/worker.h"

#include <utility>

#include "absl/time/clock.h"
#include "worker/log.h"

namespace patchflow {
namespace {

absl::Status Unavailable(const char* message, const char* reason) {
  return WithEngineReason(absl::UnavailableError(message), reason);
}

// After these the ranks are as good as before.
bool IsHarmless(const absl::Status& status) {
  return status.ok() || absl::IsCancelled(status) || absl::IsInvalidArgument(status);
}

}  // namespace

Worker::Worker(WorkerOptions options) : options_(std::move(options)), thread_([this] { Main(); }) {}

Worker::~Worker() { Stop(absl::InfiniteDuration()); }

void Worker::SetState(WorkerState state, const absl::Status& failure) {
  const std::lock_guard lock(mutex_);
  snapshot_.state = state;
  snapshot_.failure = std::string(failure.message());
  ++snapshot_.version;
  changed_.notify_all();
}

void Worker::Main() {
  absl::StatusOr<LoadedGroup> loaded = options_.load();
  if (!loaded.ok()) {
    SetState(WorkerState::kFailed, loaded.status());
    options_.on_failed(loaded.status());
  } else {
    loaded->offer.load_time = absl::Now() - options_.process_start;
    {
      const std::lock_guard lock(mutex_);
      snapshot_.offer = loaded->offer;
      loaded_ = *std::move(loaded);
    }
    SetState(WorkerState::kReady);
  }
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || next_.has_value(); });
    if (!next_.has_value()) break;
    Task task = *std::exchange(next_, std::nullopt);
    lock.unlock();
    Run(std::move(task));
    lock.lock();
  }
  const bool all_ended = !loaded_.has_value() || [&] {
    lock.unlock();
    const bool ended = loaded_->group->Stop();
    lock.lock();
    return ended;
  }();
  left_behind_ = !all_ended;
  ended_ = true;
  changed_.notify_all();
}

void Worker::Run(Task task) {
  const absl::Time begin = absl::Now();
  absl::Status status;
  {
    const std::stop_callback caller(task.stop, [this] { stop_running_.request_stop(); });
    status = RunJob(*loaded_->group, task.job, stop_running_.get_token(), *task.events);
  }
  const bool failed = !IsHarmless(status);
  Log(failed ? LogLevel::kError : LogLevel::kInfo, "job ended",
      {{"request_id", task.job.request_id},
       {"traceparent", task.job.traceparent},
       {"code", absl::StatusCodeToString(status.code())},
       {"images", task.job.images.size()},
       {"seconds", absl::ToDoubleSeconds(absl::Now() - begin)}});
  SetState(failed ? WorkerState::kFailed : WorkerState::kReady, failed ? status : absl::Status());
  task.events->OnEnd(status);
  if (failed) options_.on_failed(status);
}

absl::Status Worker::Start(Job job, std::stop_token stop, std::shared_ptr<JobEvents> events) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return Unavailable("the worker ends", "DRAINING");
  switch (snapshot_.state) {
    case WorkerState::kLoading:
      return Unavailable("the worker loads its model", "STARTING");
    case WorkerState::kFailed:
      return Unavailable("the worker has failed", "ENGINE_FAILED");
    case WorkerState::kBusy:
      return WithEngineReason(absl::ResourceExhaustedError("the worker runs another job"),
                              "WORKER_BUSY");
    case WorkerState::kReady:
      break;
  }
  snapshot_.state = WorkerState::kBusy;
  ++snapshot_.version;
  stop_running_ = std::stop_source();
  next_ = Task{std::move(job), std::move(stop), std::move(events)};
  changed_.notify_all();
  return absl::OkStatus();
}

bool Worker::Stop(absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  stop_running_.request_stop();
  changed_.notify_all();
  const auto ended = [this] { return ended_; };
  if (timeout == absl::InfiniteDuration()) {
    changed_.wait(lock, ended);
  } else if (!changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout), ended)) {
    return false;
  }
  return !left_behind_;
}

Worker::Snapshot Worker::Describe() const {
  const std::lock_guard lock(mutex_);
  return snapshot_;
}

void Worker::WaitForChange(uint64_t version, absl::Duration timeout, std::stop_token stop) const {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::move(stop), absl::ToChronoNanoseconds(timeout),
                    [&] { return snapshot_.version != version; });
}

std::vector<RankFigures> Worker::Figures() const {
  const RankGroup* group = nullptr;
  std::vector<RankFigures> figures(static_cast<size_t>(options_.ranks));
  {
    const std::lock_guard lock(mutex_);
    if (loaded_.has_value() && !stopping_) group = loaded_->group.get();
  }
  if (group == nullptr) return figures;
  if (loaded_->figures) figures = loaded_->figures();
  const std::vector<RankPosition> positions = group->Positions();
  for (size_t rank = 0; rank < positions.size(); ++rank) {
    figures.at(rank).position = positions[rank];
  }
  return figures;
}

}  // namespace patchflow
