#include "worker/worker.h"

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "worker/encoder.h"
#include "worker/log.h"
#include "worker/watchdog_phase.h"

namespace patchflow {
namespace {

absl::Status Unavailable(const char* message, const char* reason) {
  return WithEngineReason(absl::UnavailableError(message), reason);
}

const char* NameOf(WorkerState state) {
  constexpr std::array kNames = {"loading", "ready", "busy", "failed", "waiting", "warming"};
  return kNames.at(static_cast<size_t>(state));
}

// After these the ranks are as good as before.
bool IsHarmless(const absl::Status& status) {
  return status.ok() || absl::IsCancelled(status) || absl::IsInvalidArgument(status);
}

absl::Status Precondition(const char* message, const char* reason) {
  return WithEngineReason(absl::FailedPreconditionError(message), reason);
}

absl::Status NoShare() {
  return Precondition("the worker hosts all ranks of its group (--group-ranks)", "INVALID_REQUEST");
}

}  // namespace

Worker::Worker(WorkerOptions options)
    : options_(std::move(options)),
      membership_(options_.share.has_value()
                      ? std::make_unique<Membership>(options_.ranks, options_.share->group_ranks)
                      : nullptr),
      load_start_(options_.process_start),
      thread_([this] { Main(); }) {}

Worker::~Worker() { Stop(absl::InfiniteDuration()); }

bool Worker::SetState(WorkerState state, const absl::Status& failure) {
  std::optional<DeviceFault> fault;
  if (state == WorkerState::kFailed && options_.find_device_fault) {
    fault = options_.find_device_fault();
  }
  const std::lock_guard lock(mutex_);
  if (snapshot_.state == WorkerState::kFailed) return false;
  snapshot_.state = state;
  snapshot_.failure = std::string(failure.message());
  snapshot_.device_fault = std::move(fault);
  snapshot_.watchdog_phase = WatchdogPhaseOf(failure);
  ++snapshot_.version;
  changed_.notify_all();
  Log(LogLevel::kDebug, "worker is", {{"state", NameOf(state)}, {"failure", snapshot_.failure}});
  return true;
}

std::optional<Place> Worker::AwaitPlace() {
  SetState(WorkerState::kWaiting);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return stopping_ || membership_->place().has_value(); });
  return stopping_ ? std::nullopt : membership_->place();
}

void Worker::Fail(const absl::Status& failure) {
  if (SetState(WorkerState::kFailed, failure)) options_.on_failed(failure);
}

std::optional<absl::StatusOr<LoadedGroup>> Worker::Load() {
  if (options_.before_load) {
    options_.before_load([this] { SetState(WorkerState::kWarming); });
  }
  if (!options_.share.has_value()) return options_.load();
  if (const absl::Status status = options_.share->check(); !status.ok()) {
    return absl::StatusOr<LoadedGroup>(status);
  }
  const std::optional<Place> place = AwaitPlace();
  if (!place.has_value()) return std::nullopt;
  load_start_ = absl::Now();
  SetState(WorkerState::kLoading);
  return options_.share->load(*place);
}

void Worker::Main() {
  std::optional<absl::StatusOr<LoadedGroup>> loading = Load();
  if (loading.has_value() && !loading->ok()) {
    Fail(loading->status());
  } else if (loading.has_value()) {
    LoadedGroup loaded = **std::move(loading);
    loaded.offer.load_time = absl::Now() - load_start_;
    if (loaded.encoder == nullptr) loaded.encoder = std::make_shared<Encoder>();
    {
      const std::lock_guard lock(mutex_);
      snapshot_.offer = loaded.offer;
      loaded_ = std::move(loaded);
    }
    SetState(WorkerState::kReady);
  }
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || next_.has_value(); });
    if (!next_.has_value()) break;
    Task task = *std::exchange(next_, std::nullopt);
    lock.unlock();
    Run(task);
    lock.lock();
  }
  lock.unlock();
  AwaitTail();
  const bool all_ended = !loaded_.has_value() || loaded_->group->Stop();
  lock.lock();
  left_behind_ = !all_ended;
  ended_ = true;
  changed_.notify_all();
}

void Worker::Run(const Task& task) {
  const absl::Time begin = absl::Now();
  RanksEnd end;
  {
    const std::stop_callback caller(task.stop, [this] { stop_running_.request_stop(); });
    const std::stop_token stop =
        task.agreement == nullptr ? stop_running_.get_token() : std::stop_token();
    end = RunRanks(*loaded_->group, task.job, stop, *task.events, task.agreement, *loaded_->encoder,
                   [this] { AwaitTail(); });
  }
  if (membership_ != nullptr) membership_->End(task.job.number);
  const auto rest = [task, begin, end] {
    const absl::Status last = end.last_image();
    return last.ok() ? end.status : last;
  };
  if (end.last_image == nullptr || !IsHarmless(end.status)) {
    End(task, begin, end.last_image == nullptr ? end.status : rest(), /*idle=*/true);
    return;
  }
  if (SetState(WorkerState::kReady)) task.events->OnRanksFree();
  tail_ = std::thread([this, task, begin, rest] {
    const absl::Status status = rest();
    task.events->AwaitTaken();
    End(task, begin, status, /*idle=*/false);
  });
}

void Worker::End(const Task& task, absl::Time begin, const absl::Status& status, bool idle) {
  const bool failed = !IsHarmless(status);
  Log(failed ? LogLevel::kError : LogLevel::kInfo, "job ended",
      {{"request_id", task.job.request_id},
       {"traceparent", task.job.traceparent},
       {"code", absl::StatusCodeToString(status.code())},
       {"images", task.job.images.size()},
       {"seconds", absl::ToDoubleSeconds(absl::Now() - begin)}});
  const bool fails_first = failed && SetState(WorkerState::kFailed, status);
  if (!failed && idle) SetState(WorkerState::kReady);
  task.events->OnEnd(status);
  if (fails_first) options_.on_failed(status);
}

void Worker::AwaitTail() {
  if (tail_.joinable()) tail_.join();
}

absl::Status Worker::Start(Job job, std::stop_token stop, std::shared_ptr<JobEvents> events) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return Unavailable("the worker ends", "DRAINING");
  switch (snapshot_.state) {
    case WorkerState::kWaiting:
    case WorkerState::kLoading:
    case WorkerState::kWarming:
      return Unavailable("the worker loads its model", "STARTING");
    case WorkerState::kFailed:
      return Unavailable("the worker has failed", "ENGINE_FAILED");
    case WorkerState::kBusy:
      return WithEngineReason(absl::ResourceExhaustedError("the worker runs another job"),
                              "WORKER_BUSY");
    case WorkerState::kReady:
      break;
  }
  std::shared_ptr<JobAgreement> agreement;
  if (membership_ != nullptr) {
    absl::StatusOr<std::shared_ptr<JobAgreement>> begun = membership_->Begin(job.owner, job.number);
    if (!begun.ok()) return begun.status();
    agreement = *std::move(begun);
  }
  snapshot_.state = WorkerState::kBusy;
  ++snapshot_.version;
  Log(LogLevel::kDebug, "job begins",
      {{"request_id", job.request_id}, {"number", job.number}, {"images", job.images.size()}});
  stop_running_ = std::stop_source();
  next_ = Task{std::move(job), std::move(stop), std::move(events), std::move(agreement)};
  changed_.notify_all();
  return absl::OkStatus();
}

void Worker::Prepare(std::vector<std::string> texts) {
  const std::lock_guard lock(mutex_);
  if (loaded_.has_value() && loaded_->text_hints != nullptr) {
    loaded_->text_hints->Offer(std::move(texts));
  }
}

absl::StatusOr<std::string> Worker::MakeWorld(const std::string& host) {
  if (membership_ == nullptr) return NoShare();
  if (Describe().state != WorkerState::kWaiting) {
    return Precondition("the worker does not wait to join", "STALE_EPOCH");
  }
  return options_.share->make_world(host);
}

absl::Status Worker::Join(const Ownership& owner, const Place& place) {
  if (membership_ == nullptr) return NoShare();
  const std::lock_guard lock(mutex_);
  if (snapshot_.state != WorkerState::kWaiting) {
    return Precondition("the worker does not wait to join", "STALE_EPOCH");
  }
  absl::Status status = membership_->Join(owner, place);
  changed_.notify_all();
  return status;
}

absl::Status Worker::TakeOver(const Ownership& owner, uint64_t previous_epoch, int first_rank) {
  if (membership_ == nullptr) return NoShare();
  return membership_->TakeOver(owner, previous_epoch, first_rank);
}

absl::Status Worker::Leave(const Ownership& owner, const std::string& why) {
  if (membership_ == nullptr) return NoShare();
  if (absl::Status status = membership_->CheckLeave(owner); !status.ok()) return status;
  const absl::Status left =
      Unavailable(absl::StrCat("told to leave its group: ", why).c_str(), "ENGINE_FAILED");
  Fail(left);
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
