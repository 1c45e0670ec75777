#include "tls/periodic.h"

#include <utility>

namespace patchflow {

Periodic::Periodic(absl::Duration period, std::function<void()> act)
    : thread_([this, period = absl::ToChronoNanoseconds(period), act = std::move(act)] {
        std::unique_lock<std::mutex> lock(mutex_);
        while (!changed_.wait_for(lock, period, [this] { return stopping_; })) {
          lock.unlock();
          act();
          lock.lock();
        }
      }) {}

Periodic::~Periodic() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

}  // namespace patchflow
