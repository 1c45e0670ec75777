// The generations that wait for a group, of one model.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/generation.h"

namespace patchflow {

struct QueueEntry {
  std::shared_ptr<Generation> generation;
  bool again = false;    // A group had it before and could not finish it.
  uint64_t arrival = 0;  // Rises with every push.
};

// Whether `a` runs before `b`, as seen at `now`. A strict weak order.
using QueueOrder =
    std::function<bool(const QueueEntry& a, const QueueEntry& b, Clock::time_point now)>;

// What a group had before, then higher priority, then arrival.
bool PriorityThenArrival(const QueueEntry& a, const QueueEntry& b, Clock::time_point now);

// Bounded and thread-safe. Push never blocks. Whoever ends a queued
// generation removes it.
class RequestQueue {
 public:
  explicit RequestQueue(size_t capacity, QueueOrder order = PriorityThenArrival);

  // RESOURCE_EXHAUSTED / QUEUE_FULL; UNAVAILABLE / DRAINING once closed.
  absl::Status Push(std::shared_ptr<Generation> generation);
  // Puts back one that a group could not finish; takes no notice of the bound, or of Close().
  void PushAgain(std::shared_ptr<Generation> generation);
  // The next of that plan; null after `wait`, or at once when Interrupt() is called or the queue is
  // closed and empty.
  std::shared_ptr<Generation> Pop(const std::string& plan_digest, absl::Duration wait);
  // Wakes every Pop().
  void Interrupt();
  // Refuses whatever comes from now on; what is queued can still be popped.
  void Close();
  // Empties it; the caller ends what it gets. `plan_digest`: only that plan.
  std::vector<std::shared_ptr<Generation>> Take(
      const std::optional<std::string>& plan_digest = std::nullopt);
  // Drops a generation that has ended. Nothing if it is not queued.
  void Remove(const Generation& generation);

  // What would run before `generation` if it were pushed now, of its plan.
  std::vector<std::shared_ptr<Generation>> Ahead(
      const std::shared_ptr<Generation>& generation) const;
  size_t size() const;
  size_t SizeOf(const std::string& plan_digest) const;
  size_t capacity() const { return capacity_; }
  // Time since the oldest was pushed.
  absl::Duration OldestAge() const;
  // In the order in which they would run now.
  std::vector<std::shared_ptr<Generation>> InOrder() const;

 private:
  const size_t capacity_;
  const QueueOrder order_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<const Generation*, QueueEntry> entries_;
  uint64_t last_arrival_ = 0;
  uint64_t interrupts_ = 0;
  bool closed_ = false;
};

}  // namespace patchflow
