#include "server/group.h"

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

Group::Group(GroupConfig config, std::map<LossKind, int> losses)
    : config_(std::move(config)), losses_(std::move(losses)) {}

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

std::shared_ptr<Generation> Group::running() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return running_;
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
  std::function<void()> abort;
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
    incarnation_.client = nullptr;
    abort = std::move(abort_);
    abort_ = nullptr;
  }
  changed_.notify_all();
  if (abort != nullptr) {
    abort();
  }
  on_change_();
}

void Group::SetFailed(const std::string& why) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    state_ = GroupState::kFailed;
    failure_ = why;
  }
  changed_.notify_all();
  on_change_();
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
  on_beat_(beat);
}

std::optional<std::string> Group::complaint() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return complaint_;
}

absl::Duration Group::SilentFor() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return running_ == nullptr ? absl::ZeroDuration()
                             : absl::FromChrono(Clock::now() - last_event_.load());
}

void Group::Stop() {
  std::function<void()> abort;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
    abort = std::move(abort_);
    abort_ = nullptr;
  }
  changed_.notify_all();
  if (abort != nullptr) {
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
    return stopped_ || state_ == GroupState::kFailed ||
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

void Group::SetRunning(uint64_t epoch, std::shared_ptr<Generation> generation,
                       std::function<void()> abort) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    last_request_id_ = generation->spec().request_id;
    running_ = std::move(generation);
    NoteEvent();
    if (!stopped_ && state_ == GroupState::kServing && incarnation_.epoch == epoch) {
      abort_ = std::move(abort);
      return;
    }
  }
  abort();
}

void Group::SetIdle() {
  std::shared_ptr<Generation> previous;
  std::function<void()> abort;
  std::lock_guard<std::mutex> lock(mutex_);
  previous = std::move(running_);
  running_ = nullptr;
  abort = std::move(abort_);
  abort_ = nullptr;
}

}  // namespace patchflow
