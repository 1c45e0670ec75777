// Ctrl-C: ends calls at once, in order.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/time/time.h"

namespace patchflow {

// A switch that goes on once and stays on. Thread-safe.
class Interrupt {
 public:
  void Trigger();
  bool triggered() const;

  // Sleeps; true at once when the switch goes on.
  bool WaitFor(absl::Duration duration);

  // Runs `action` when the switch goes on (or now, if it is on) while the guard lives. One guard at
  // a time.
  class Guard {
   public:
    Guard(Interrupt& interrupt, std::function<void()> action);
    ~Guard();
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    Interrupt& interrupt_;
  };

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool triggered_ = false;
  std::function<void()> action_;  // Called under mutex_, so that it can't outlive its guard.
};

// Turns the first SIGINT or SIGTERM into a Trigger; the second one ends the process as signals do.
// Made by main before any other thread, as it blocks the two signals in the threads made later.
class SignalWatcher {
 public:
  explicit SignalWatcher(Interrupt& interrupt);
  ~SignalWatcher();

 private:
  void Watch();

  Interrupt& interrupt_;
  int signals_ = -1;  // signalfd
  int stop_ = -1;     // eventfd
  std::jthread thread_;
};

}  // namespace patchflow
