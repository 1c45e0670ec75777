#include "worker/worker.h"

#include <algorithm>
#include <array>
#include <chrono>
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

// How long the images of calls that went well hold up that the worker is FAILED.
constexpr std::chrono::seconds kHandOver{5};

void LogEnd(const BatchCall& call, const absl::Status& status, absl::Time begin) {
  Log(IsHarmless(status) ? LogLevel::kInfo : LogLevel::kError, "job ended",
      {{"request_id", call.job.request_id},
       {"traceparent", call.job.traceparent},
       {"code", absl::StatusCodeToString(status.code())},
       {"images", call.job.images.size()},
       {"seconds", absl::ToDoubleSeconds(absl::Now() - begin)}});
}

// All of it: blocks until its last images are handed over.
absl::Status WholeOf(const CallEnd& end) {
  const absl::Status last = end.last_images ? end.last_images() : absl::OkStatus();
  return last.ok() ? end.status : last;
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
  while (const std::optional<Batch> batch = AwaitBatch()) Run(*batch);
  AwaitTails();
  const bool all_ended = !loaded_.has_value() || loaded_->group->Stop();
  const std::lock_guard lock(mutex_);
  left_behind_ = !all_ended;
  ended_ = true;
  changed_.notify_all();
}

std::optional<Batch> Worker::AwaitBatch() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return stopping_ || next_.has_value(); });
  if (!next_.has_value()) return std::nullopt;
  changed_.wait_until(lock, next_->deadline(), [this] { return stopping_ || next_->full(); });
  return std::exchange(next_, std::nullopt);
}

void Worker::Run(const Batch& batch) {
  const absl::Time begin = absl::Now();
  const std::vector<CallEnd> ends = RunBatch(*loaded_->group, batch, stop_running_.get_token(),
                                             *loaded_->encoder, [this] { AwaitTails(); });
  if (membership_ != nullptr) membership_->End(batch.calls().front().job.number);
  const bool well = std::all_of(ends.begin(), ends.end(),
                                [](const CallEnd& end) { return IsHarmless(end.status); });
  const bool free = well && SetState(WorkerState::kReady);
  for (size_t i = 0; i < ends.size(); ++i) {
    if (IsHarmless(ends[i].status)) EndWell(batch.calls()[i], ends[i], free, begin);
  }
  if (!well) FailBatch(batch, ends, begin);
}

void Worker::EndWell(const BatchCall& call, const CallEnd& end, bool free, absl::Time begin) {
  if (end.last_images == nullptr) {
    LogEnd(call, end.status, begin);
    call.events->OnEnd(end.status);
    return;
  }
  if (free) call.events->OnRanksFree();
  BeginTail(call, end, begin);
}

void Worker::BeginTail(const BatchCall& call, const CallEnd& end, absl::Time begin) {
  {
    const std::lock_guard lock(mutex_);
    ++open_tails_;
  }
  tails_.emplace_back([this, call, end, begin] {
    const absl::Status status = WholeOf(end);
    call.events->AwaitTaken();
    LogEnd(call, status, begin);
    const bool fails_first = !IsHarmless(status) && SetState(WorkerState::kFailed, status);
    call.events->OnEnd(status);
    if (fails_first) options_.on_failed(status);
    const std::lock_guard lock(mutex_);
    --open_tails_;
    changed_.notify_all();
  });
}

void Worker::AwaitTails() {
  for (std::thread& tail : tails_) tail.join();
  tails_.clear();
}

void Worker::FailBatch(const Batch& batch, const std::vector<CallEnd>& ends, absl::Time begin) {
  std::vector<std::pair<const BatchCall*, absl::Status>> failed;
  for (size_t i = 0; i < ends.size(); ++i) {
    if (!IsHarmless(ends[i].status)) failed.emplace_back(&batch.calls()[i], WholeOf(ends[i]));
  }
  const bool others_hand_over = std::any_of(ends.begin(), ends.end(), [](const CallEnd& end) {
    return IsHarmless(end.status) && end.last_images != nullptr;
  });
  if (others_hand_over) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kHandOver, [this] { return open_tails_ == 0; });
  }
  const absl::Status& why = failed.front().second;
  const bool fails_first = SetState(WorkerState::kFailed, why);
  for (const auto& [call, status] : failed) {
    LogEnd(*call, status, begin);
    call->events->OnEnd(status);
  }
  if (fails_first) options_.on_failed(why);
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
      if (next_.has_value() && next_->Fits(job)) break;
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
  Log(LogLevel::kDebug, "job begins",
      {{"request_id", job.request_id}, {"number", job.number}, {"images", job.images.size()}});
  BatchCall call{std::move(job), std::move(stop), std::move(events), std::move(agreement)};
  if (next_.has_value()) {
    next_->Add(std::move(call));
  } else {
    next_.emplace(std::move(call), options_.batch_size, options_.batch_delay);
    snapshot_.state = WorkerState::kBusy;
    ++snapshot_.version;
  }
  changed_.notify_all();
  return absl::OkStatus();
}

void Worker::Prepare(std::vector<std::string> texts) {
  const std::lock_guard lock(mutex_);
  if (!loaded_.has_value()) return;
  for (const auto& hints : loaded_->text_hints) hints->Offer(texts);
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
