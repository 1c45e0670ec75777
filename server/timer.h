// Calls functions at given times, on one thread of its own.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "server/clock.h"

namespace patchflow {

// Thread-safe. The functions must not block: they all share the thread.
class Timer {
 public:
  using Id = uint64_t;  // 0 is none.

  Timer();
  ~Timer();  // Waits for the function that runs; drops those that wait.
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  Id At(Clock::time_point when, std::function<void()> what);
  Id After(absl::Duration delay, std::function<void()> what);
  // Nothing happens if it has run, runs, or is 0. Does not wait for one that runs.
  void Cancel(Id id);

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  Id last_id_ = 0;
  std::map<std::pair<Clock::time_point, Id>, std::function<void()>> waiting_;
  std::map<Id, Clock::time_point> times_;
  std::thread thread_;
};

}  // namespace patchflow
