// Runs functions at set times.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "absl/time/time.h"

namespace patchflow {

// One thread. What is due runs in the order of time, late ones at once. Thread-safe; functions may
// call At.
class LoadTimer {
 public:
  LoadTimer();
  ~LoadTimer();  // What has not run by then never does.

  void At(absl::Time time, std::function<void()> function);

 private:
  void Run(const std::stop_token& stop);

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::multimap<absl::Time, std::function<void()>> due_;
  std::jthread thread_;
};

}  // namespace patchflow
