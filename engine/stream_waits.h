// How long a CUDA stream stands still for others' work. The host waits for nothing there, so events
// before and after each wait tell it, within captured steps too.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

namespace patchflow {

// Of so many replays of a captured step the waits of one are timed, and count as those of all: 16
// unless set. 1: each is, and the host waits for one before it starts the next. 0: no wait is
// timed, captured or not. Steps that are captured already stay as they are. Thread-safe.
void TimeOneReplayIn(int64_t replays);
int64_t ReplaysToOneTimed();

// Which replays of a step are timed: the first, and every `every`-th after it.
class ReplaySampler {
 public:
  explicit ReplaySampler(int64_t every) : every_(every), since_(every - 1) {}
  // How many replays the next one stands for: itself, and those since the last that was timed. 0:
  // it is not timed.
  int64_t Next();

 private:
  int64_t every_;
  int64_t since_;
  bool first_ = true;
};

// What a wait took, times the replays that it stands for.
using WaitSink = std::function<void(std::chrono::nanoseconds)>;

// Calls `wait`, which makes this thread's current CUDA stream wait. `sink` is told for how long the
// stream stood still, from TellWaits() on this thread, when the device has passed it. Where a
// StepGraph is captured: after each timed replay. Two events on the stream, some 5 us of the host.
void TimeWait(const std::function<void()>& wait, WaitSink sink);

// Tells the sinks of this thread what the device has passed by now. Returns at once. Called by
// StepGraph::Run and at the end of an image; without CUDA there is nothing to tell.
void TellWaits();

// The waits of one captured step. For StepGraph; on one thread.
class CapturedWaits {
 public:
  enum class Nodes { kNone, kAround };

  CapturedWaits();
  ~CapturedWaits();
  // Calls `enqueue` while it is captured. kAround: event nodes go before and after each wait;
  // kNone: waits are counted.
  void Capture(Nodes nodes, const std::function<void()>& enqueue);
  int64_t count() const;

  // Around a replay of a graph with nodes, on its stream. The host waits for the last one if that
  // is not finished.
  void BeforeReplay();
  void AfterReplay(int64_t stands_for);

  struct State;

 private:
  std::shared_ptr<State> state_;  // Shared with what is still to be told.
};

}  // namespace patchflow
