// The generations that wait for a group, of one model.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/fair_share.h"
#include "server/generation.h"
#include "server/queued_work.h"

namespace patchflow {

struct QueueBounds {
  size_t requests = 256;
  absl::Duration work = absl::InfiniteDuration();  // As QueuedWork sums it.
  absl::Duration ageing = absl::Seconds(60);       // Waiting that lifts by one class of priority.
};

// Bounded and thread-safe. What a group had before and could not finish runs first; then goes the
// higher class of priority after ageing, within it the client that was served least, of its
// requests the one with the earliest deadline, and then the one that came first. Push never blocks.
// Whoever ends a queued generation removes it.
class RequestQueue {
 public:
  explicit RequestQueue(const QueueBounds& bounds);

  // RESOURCE_EXHAUSTED / QUEUE_FULL when either bound would be passed, though an empty queue takes
  // work of any length; UNAVAILABLE / DRAINING once closed.
  absl::Status Push(std::shared_ptr<Generation> generation);
  // Puts back one that a group could not finish, or one that was accepted in an earlier life of the
  // server; takes no notice of the bounds, or of Close().
  void PushAgain(std::shared_ptr<Generation> generation);
  // The next of that plan, first, and beside it what may share its pass of `rows` images: in the
  // queue's order, those of the same PassShape whose missing images fit into the rows that would
  // be empty. So nobody waits longer for those that are not next. A suspect, or more images than
  // there are rows, come alone. Each is charged its part of the pass, by its images. Empty after
  // `wait`, or at once when Interrupt() is called or the queue is closed and empty.
  std::vector<std::shared_ptr<Generation>> PopBatch(const std::string& plan_digest, int rows,
                                                    absl::Duration wait);
  // What PopBatch() would give now; empty if there is none.
  std::vector<std::shared_ptr<Generation>> PeekBatch(const std::string& plan_digest,
                                                     int rows) const;
  // Wakes every PopBatch().
  void Interrupt();
  // Refuses whatever comes from now on; what is queued can still be popped.
  void Close();
  // Empties it; the caller ends what it gets. `plan_digest`: only that plan.
  std::vector<std::shared_ptr<Generation>> Take(
      const std::optional<std::string>& plan_digest = std::nullopt);
  // Drops a generation that has ended; whether it was queued.
  bool Remove(const Generation& generation);

  // What would run before `generation` if it were pushed now, of its plan.
  std::vector<std::shared_ptr<Generation>> Ahead(
      const std::shared_ptr<Generation>& generation) const;
  size_t size() const;
  size_t SizeOf(const std::string& plan_digest) const;
  size_t capacity() const { return bounds_.requests; }
  // See QueuedWork.
  absl::Duration Work() const;
  // Time since the oldest was pushed.
  absl::Duration OldestAge() const;
  // In the order in which they would run now.
  std::vector<std::shared_ptr<Generation>> InOrder() const;

 private:
  struct Entry {
    std::shared_ptr<Generation> generation;
    bool again = false;
    uint64_t arrival = 0;  // Rises with every push.
  };
  using Entries = std::map<const Generation*, Entry>;
  // Lower runs sooner: (not again, class, share, deadline, arrival).
  using Key = std::tuple<bool, int, double, Clock::time_point, uint64_t>;

  Key KeyOf(const Entry& entry, Clock::time_point now) const;
  // What runs next of that plan; entries_.end() if there is none.
  Entries::const_iterator NextLocked(const std::string& plan_digest) const;
  std::vector<Entries::const_iterator> BatchLocked(const std::string& plan_digest, int rows) const;
  // What may run beside `first`, in order.
  std::vector<Entries::const_iterator> AlikeLocked(Entries::const_iterator first) const;
  // Takes them out.
  std::vector<std::shared_ptr<Generation>> ServeLocked(
      const std::vector<Entries::const_iterator>& batch);
  static bool HasPlan(const Entry& entry, const std::string& plan_digest);
  absl::Status CheckBounds(const Generation& generation) const;
  void Insert(std::shared_ptr<Generation> generation, bool again);
  // Takes it out without serving it.
  std::shared_ptr<Generation> Drop(Entries::iterator entry);

  const QueueBounds bounds_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Entries entries_;
  FairShare shares_;
  QueuedWork work_;
  uint64_t last_arrival_ = 0;
  uint64_t interrupts_ = 0;
  bool closed_ = false;
};

}  // namespace patchflow
