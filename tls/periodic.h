// A thread that does the same again and again.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/time/time.h"

namespace patchflow {

class Periodic {
 public:
  // Calls `act` a `period` from now, and again a `period` after each return.
  Periodic(absl::Duration period, std::function<void()> act);
  // Waits for the call that runs.
  ~Periodic();
  Periodic(const Periodic&) = delete;
  Periodic& operator=(const Periodic&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace patchflow
