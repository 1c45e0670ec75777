#include "server/timer.h"

namespace patchflow {

Timer::Timer() : thread_([this] { Run(); }) {}

Timer::~Timer() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Timer::Id Timer::At(Clock::time_point when, std::function<void()> what) {
  Id id = 0;
  bool first = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    id = ++last_id_;
    auto inserted = waiting_.emplace(std::make_pair(when, id), std::move(what)).first;
    times_.emplace(id, when);
    first = inserted == waiting_.begin();
  }
  if (first) {
    changed_.notify_all();
  }
  return id;
}

Timer::Id Timer::After(absl::Duration delay, std::function<void()> what) {
  return At(Clock::now() + ToClock(delay), std::move(what));
}

void Timer::Cancel(Id id) {
  std::function<void()> dropped;
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = times_.find(id);
  if (found == times_.end()) {
    return;
  }
  auto entry = waiting_.find({found->second, id});
  dropped = std::move(entry->second);
  waiting_.erase(entry);
  times_.erase(found);
}

void Timer::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopping_) {
    if (waiting_.empty()) {
      changed_.wait(lock);
      continue;
    }
    auto next = waiting_.begin();
    const Clock::time_point when = next->first.first;
    if (Clock::now() < when) {
      changed_.wait_until(lock, when);
      continue;
    }
    std::function<void()> what = std::move(next->second);
    times_.erase(next->first.second);
    waiting_.erase(next);
    lock.unlock();
    what();
    what = nullptr;
    lock.lock();
  }
}

}  // namespace patchflow
