#include "client/load_timer.h"

#include <utility>

#include "absl/time/clock.h"

namespace patchflow {

LoadTimer::LoadTimer() : thread_([this](const std::stop_token& stop) { Run(stop); }) {}

LoadTimer::~LoadTimer() {
  thread_.request_stop();
  thread_.join();
}

void LoadTimer::At(absl::Time time, std::function<void()> function) {
  {
    const std::lock_guard lock(mutex_);
    const bool first = due_.empty() || time < due_.begin()->first;
    due_.emplace(time, std::move(function));
    if (!first) return;
  }
  changed_.notify_one();
}

void LoadTimer::Run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    if (due_.empty()) {
      changed_.wait(lock, stop, [this] { return !due_.empty(); });
      continue;
    }
    const absl::Time next = due_.begin()->first;
    if (absl::Now() < next) {
      changed_.wait_until(lock, stop, absl::ToChronoTime(next),
                          [&] { return due_.begin()->first < next; });
      continue;
    }
    auto node = due_.extract(due_.begin());
    lock.unlock();
    node.mapped()();
    node = {};
    lock.lock();
  }
}

}  // namespace patchflow
