#include "server/store_desk.h"

#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/errors.h"
#include "server/log.h"

namespace patchflow {
namespace {

constexpr std::chrono::seconds kLastWrites{10};
constexpr absl::Duration kMaxSweepPause = absl::Seconds(30);
constexpr size_t kAtATime = 64;
constexpr Clock::duration kPauseAfterFailure = std::chrono::seconds(1);

// Whoever has the store next makes what this process could not because it ended.
bool GoesOn(const absl::Status& end) { return ReasonOf(end) == reason::kDraining; }

absl::Status TooSlow(absl::Duration limit) {
  return absl::UnavailableError(
      absl::StrCat("the disk did not answer within ", absl::FormatDuration(limit)));
}

// What has come of `generation` so far.
absl::Status Write(StoreTable& table, const Generation& generation) {
  const Standing standing = generation.standing();
  absl::Status status = table.AddImages(generation);
  if (status.ok() && standing.attempt > 1) {
    status = table.SetAttempt(generation, standing.attempt);
  }
  if (status.ok() && standing.ended() && !GoesOn(standing.status)) {
    status = table.End(generation, standing.status);
  }
  return status;
}

}  // namespace

// Listens to one generation for the desk.
class StoreDesk::Follower final : public Generation::Subscriber {
 public:
  Follower(const std::shared_ptr<StoreDesk>& desk, const std::shared_ptr<Generation>& generation)
      : desk_(desk), generation_(generation) {}

  void OnChange() override {
    const auto generation = generation_.lock();
    const auto desk = desk_.lock();
    if (generation == nullptr || desk == nullptr) {
      return;
    }
    const Standing standing = generation->standing();
    const bool new_images = images_done_.exchange(standing.images_done) != standing.images_done;
    const bool new_attempt = attempt_.exchange(standing.attempt) != standing.attempt;
    if (new_images || new_attempt || standing.ended()) {
      desk->Enqueue(generation);
    }
  }

 private:
  const std::weak_ptr<StoreDesk> desk_;
  const std::weak_ptr<Generation> generation_;
  std::atomic<int> images_done_ = 0;
  std::atomic<int> attempt_ = 1;
};

void StoreDesk::Answer::Give(const absl::Status& with) {
  {
    const std::lock_guard<std::mutex> lock(mutex);
    status = with;
  }
  came.notify_all();
}

void StoreDesk::Start() {
  std::thread([self = shared_from_this()] { self->Run(); }).detach();
}

void StoreDesk::Stop() {
  std::unique_lock<std::mutex> lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
  if (!changed_.wait_for(lock, kLastWrites, [this] { return ended_; })) {
    LogError("the store is left behind", {{"waiting", static_cast<int64_t>(waiting_.size())}});
  }
}

void StoreDesk::Post(Task task) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    waiting_.push_back(std::move(task));
  }
  changed_.notify_all();
}

bool StoreDesk::stuck() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return at_work_ && Clock::now() - began_ > ToClock(config_.max_wait);
}

absl::Status StoreDesk::Ask(Task task) {
  const std::shared_ptr<Answer> answer = task.answer;
  answer->asked = !stuck();
  if (answer->asked) {
    Post(std::move(task));
    std::unique_lock<std::mutex> lock(answer->mutex);
    if (answer->came.wait_for(lock, ToClock(config_.max_wait),
                              [&] { return answer->status.has_value(); })) {
      return *answer->status;
    }
  }
  ++failures_;
  return TooSlow(config_.max_wait);
}

void StoreDesk::Enqueue(const std::shared_ptr<Generation>& generation) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (std::any_of(waiting_.begin(), waiting_.end(),
                    [&](const Task& task) { return task.follows == generation; })) {
      return;
    }
    waiting_.push_back(
        {.change = [generation](StoreTable& table) { return Write(table, *generation); },
         .request_id = generation->spec().request_id,
         .follows = generation});
  }
  changed_.notify_all();
}

void StoreDesk::Follow(const std::shared_ptr<Generation>& generation) {
  auto follower = std::make_shared<Follower>(shared_from_this(), generation);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!followers_.emplace(generation.get(), follower).second) {
      return;
    }
  }
  generation->Listen(follower);
  Enqueue(generation);
}

void StoreDesk::Run() {
  const absl::Duration pause =
      std::clamp(config_.max_age / 10, absl::Milliseconds(100), kMaxSweepPause);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopping_ || !waiting_.empty() || !failed_.empty()) {
    changed_.wait_for(lock, failed_.empty() ? ToClock(pause) : kPauseAfterFailure,
                      [this] { return stopping_ || !waiting_.empty(); });
    TakeFailed();
    const auto end =
        waiting_.begin() + static_cast<std::ptrdiff_t>(std::min(waiting_.size(), kAtATime));
    std::vector<Task> tasks(std::make_move_iterator(waiting_.begin()),
                            std::make_move_iterator(end));
    waiting_.erase(waiting_.begin(), end);
    at_work_ = true;
    began_ = Clock::now();
    lock.unlock();
    Do(tasks);
    lock.lock();
    at_work_ = false;
    KeepFailed(tasks);
    Unfollow(tasks);
  }
  lock.unlock();
  table_.reset();
  close(lock_);
  lock.lock();
  ended_ = true;
  changed_.notify_all();
}

void StoreDesk::Do(std::vector<Task>& tasks) {
  std::vector<Task*> changes;
  for (Task& task : tasks) {
    if (task.change != nullptr) {
      changes.push_back(&task);
    }
  }
  DoChanges(changes);
  for (Task& task : tasks) {
    if (task.change == nullptr) {
      Finish(task, task.read(*table_));
    }
  }
}

// All together if that goes, for one sync; else each for itself, so that one does not spoil others.
void StoreDesk::DoChanges(std::vector<Task*>& changes) {
  const absl::Status together = table_->Change([&] {
    for (Task* task : changes) {
      if (absl::Status status = task->change(*table_); !status.ok()) {
        return status;
      }
    }
    return table_->Evict(config_.max_bytes, absl::Now() - config_.max_age);
  });
  if (changes.empty()) {
    Note(together, "");
  }
  for (Task* task : changes) {
    Finish(*task, together.ok() ? together : table_->Change([&] { return task->change(*table_); }));
  }
}

void StoreDesk::Finish(Task& task, const absl::Status& status) {
  Note(status, task.request_id);
  task.failed = !status.ok();
  if (task.answer != nullptr) {
    task.answer->Give(status);
  }
}

void StoreDesk::Note(const absl::Status& status, const std::string& request_id) {
  if (!status.ok() && !absl::IsNotFound(status)) {
    ++failures_;
    LogError("the store failed",
             {{"request_id", request_id}, {"why", std::string(status.message())}});
  }
}

// Under mutex_.
void StoreDesk::KeepFailed(std::vector<Task>& done) {
  for (Task& task : done) {
    if (task.failed && task.follows != nullptr && !stopping_) {
      failed_.push_back(task);
      failed_at_ = Clock::now();
    }
  }
}

// Under mutex_: those that were to be tried again wait like others, once it is time.
void StoreDesk::TakeFailed() {
  if (stopping_ || Clock::now() - failed_at_ >= kPauseAfterFailure) {
    for (Task& task : failed_) {
      task.failed = false;
      waiting_.push_back(std::move(task));
    }
    failed_.clear();
  }
}

// Under mutex_: those that have ended, and are written down so.
void StoreDesk::Unfollow(const std::vector<Task>& done) {
  for (const Task& task : done) {
    const bool again = std::any_of(waiting_.begin(), waiting_.end(), [&](const Task& other) {
      return other.follows == task.follows;
    });
    if (task.follows != nullptr && task.follows->ended() && !task.failed && !again) {
      followers_.erase(task.follows.get());
    }
  }
}

}  // namespace patchflow
