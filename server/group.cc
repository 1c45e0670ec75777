#include "server/group.h"

#include <algorithm>
#include <utility>

#include "server/log.h"

namespace patchflow {

const char* Name(GroupState state) {
  switch (state) {
    case GroupState::kStarting:
      return "starting";
    case GroupState::kServing:
      return "serving";
    case GroupState::kRecovering:
      return "recovering";
    case GroupState::kFailed:
      return "failed";
  }
  return "";
}

const char* Name(LossKind kind) {
  switch (kind) {
    case LossKind::kProcessEnded:
      return "process_ended";
    case LossKind::kHeartbeat:
      return "heartbeat";
    case LossKind::kFailed:
      return "failed";
    case LossKind::kLoadTimeout:
      return "load_timeout";
    case LossKind::kStalled:
      return "stalled";
    case LossKind::kJob:
      return "job";
    case LossKind::kSickDevice:
      return "sick_device";
  }
  return "";
}

namespace {

std::vector<std::shared_ptr<Generation>> GenerationsOf(const std::vector<Group::Work>& works) {
  std::vector<std::shared_ptr<Generation>> generations;
  generations.reserve(works.size());
  for (const Group::Work& work : works) {
    generations.push_back(work.generation);
  }
  return generations;
}

void LogStart(const std::string& group, const Generation& generation) {
  if (!LogsDebug()) {
    return;
  }
  LogDebug("job goes to group",
           {{"group", group},
            {"request_id", generation.spec().request_id},
            {"attempt", generation.standing().attempt},
            {"waited_seconds",
             absl::ToDoubleSeconds(absl::FromChrono(Clock::now() - generation.created()))}});
}

}  // namespace

Group::Group(GroupConfig config, std::map<LossKind, int> losses, FaultCounts faults)
    : config_(std::move(config)), losses_(std::move(losses)), faults_(std::move(faults)) {}

GroupState Group::state() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return state_;
}

bool Group::ever_served() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return ever_served_;
}

int Group::failures() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return failures_;
}

std::map<LossKind, int> Group::losses() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return losses_;
}

FaultCounts Group::faults() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return faults_;
}

std::string Group::failure() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return failure_;
}

std::shared_ptr<const worker::v1::DescribeResponse> Group::info() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return incarnation_.info;
}

absl::Duration Group::OutOfServiceFor() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return state_ == GroupState::kServing ? absl::ZeroDuration()
                                        : absl::FromChrono(Clock::now() - served_until_);
}

std::vector<std::shared_ptr<Generation>> Group::running() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return GenerationsOf(running_);
}

std::vector<std::shared_ptr<Generation>> Group::tail() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return GenerationsOf(tail_);
}

std::vector<std::shared_ptr<Generation>> Group::AtWork() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::shared_ptr<Generation>> all = GenerationsOf(tail_);
  for (auto& generation : GenerationsOf(running_)) {
    all.push_back(std::move(generation));
  }
  return all;
}

std::string Group::last_request_id() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return last_request_id_;
}

worker::v1::WatchResponse Group::last_beat() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return last_beat_;
}

void Group::SetServing(std::shared_ptr<JobRunner> client, worker::v1::DescribeResponse info) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ++incarnation_.epoch;
    incarnation_.client = std::move(client);
    incarnation_.info = std::make_shared<const worker::v1::DescribeResponse>(std::move(info));
    state_ = GroupState::kServing;
    ever_served_ = true;
    complaint_.reset();
    failure_.clear();
  }
  changed_.notify_all();
  on_change_();
}

void Group::SetLost(const std::string& why, LossKind kind) {
  std::vector<std::function<void()>> aborts;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (state_ == GroupState::kServing) {
      served_until_ = Clock::now();
    }
    state_ = ever_served_ ? GroupState::kRecovering : GroupState::kStarting;
    ++failures_;
    ++losses_[kind];
    failure_ = why;
    complaint_.reset();
    last_beat_.set_state(worker::v1::WORKER_STATE_UNSPECIFIED);  // It is no more.
    incarnation_.client = nullptr;
    aborts = TakeAborts();
  }
  changed_.notify_all();
  cancels_.Lost();
  for (const auto& abort : aborts) {
    abort();
  }
  on_change_();
}

void Group::SetFailed(const std::string& why, bool resumable) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    state_ = GroupState::kFailed;
    resumable_ = resumable;
    failure_ = why;
  }
  changed_.notify_all();
  on_change_();
}

bool Group::Resume() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (state_ != GroupState::kFailed || !resumable_) {
      return false;
    }
    state_ = ever_served_ ? GroupState::kRecovering : GroupState::kStarting;
    resumable_ = false;
    failures_ = 0;
  }
  on_change_();
  return true;
}

void Group::CountWatchdogTrip(const std::string& phase) {
  std::lock_guard<std::mutex> lock(mutex_);
  ++faults_.watchdog_trips[phase];
}

void Group::CountNcclErrors(int64_t errors) {
  std::lock_guard<std::mutex> lock(mutex_);
  faults_.nccl_errors += errors;
}

void Group::SetFailure(const std::string& why) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (state_ != GroupState::kServing) {
    failure_ = why;
  }
}

void Group::Beat(const worker::v1::WatchResponse& beat) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    last_beat_ = beat;
  }
  cancels_.Beat(beat.state());
  on_beat_(beat);
}

std::optional<std::string> Group::complaint() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return complaint_;
}

absl::Duration Group::SilentFor() const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto now = Clock::now();
  absl::Duration silent;
  if (!running_.empty()) {
    silent = absl::FromChrono(now - last_event_.load());
  }
  if (!tail_.empty()) {
    silent = std::max(silent, absl::FromChrono(now - last_tail_event_.load()));
  }
  return silent;
}

std::vector<std::function<void()>> Group::TakeAborts() {
  std::vector<std::function<void()>> aborts;
  for (std::vector<Work>* works : {&tail_, &running_}) {
    for (Work& work : *works) {
      if (work.abort != nullptr) {
        aborts.push_back(std::exchange(work.abort, nullptr));
      }
    }
  }
  return aborts;
}

void Group::Stop() {
  std::vector<std::function<void()>> aborts;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
    aborts = TakeAborts();
  }
  changed_.notify_all();
  for (const auto& abort : aborts) {
    abort();
  }
}

bool Group::stopped() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return stopped_;
}

std::optional<Incarnation> Group::WaitServing() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] {
    return stopped_ || (state_ == GroupState::kFailed && !resumable_) ||
           (state_ == GroupState::kServing && !complaint_.has_value());
  });
  if (stopped_ || state_ == GroupState::kFailed) {
    return std::nullopt;
  }
  return incarnation_;
}

bool Group::Serving(uint64_t epoch) const {
  std::lock_guard<std::mutex> lock(mutex_);
  return state_ == GroupState::kServing && incarnation_.epoch == epoch && !complaint_.has_value() &&
         !stopped_;
}

void Group::Complain(uint64_t epoch, const std::string& why) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (state_ == GroupState::kServing && incarnation_.epoch == epoch) {
    complaint_ = why;
  }
}

void Group::JobCompleted() {
  std::lock_guard<std::mutex> lock(mutex_);
  failures_ = 0;
}

void Group::SetRunning(uint64_t epoch, std::vector<Work> batch) {
  for (const Work& work : batch) {
    LogStart(config_.name, *work.generation);
  }
  std::vector<std::function<void()>> aborts;
  std::vector<Work> previous;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    last_request_id_ = batch.front().generation->spec().request_id;
    previous = std::exchange(running_, std::move(batch));
    NoteEvent();
    if (!stopped_ && state_ == GroupState::kServing && incarnation_.epoch == epoch) {
      return;
    }
    for (Work& work : running_) {
      aborts.push_back(std::exchange(work.abort, nullptr));
    }
  }
  for (const auto& abort : aborts) {
    abort();
  }
}

void Group::SetEnded(const Generation& generation) {
  Work ended;  // Let go without the lock.
  std::lock_guard<std::mutex> lock(mutex_);
  for (std::vector<Work>* works : {&tail_, &running_}) {
    const auto found = std::find_if(works->begin(), works->end(), [&](const Work& work) {
      return work.generation.get() == &generation;
    });
    if (found != works->end()) {
      ended = std::move(*found);
      works->erase(found);
      return;
    }
  }
}

void Group::SetRanksFree() {
  std::vector<Work> previous;
  std::lock_guard<std::mutex> lock(mutex_);
  previous = std::exchange(tail_, std::exchange(running_, {}));
  NoteTailEvent();
}

}  // namespace patchflow
