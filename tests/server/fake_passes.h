// Which calls of a fake worker share a pass, and when the ranks are free for the next one.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>

#include "patchflow/worker/v1/worker.pb.h"
#include "server/clock.h"

namespace patchflow {

// As a worker's: calls of one shape that come within 10 ms of the first, `batch_size` images at
// most. Thread-safe.
class FakePasses {
 public:
  explicit FakePasses(int batch_size) : batch_size_(batch_size) {}

  // A call's place.
  struct Seat {
    bool has_ranks = false;
    bool is_tail = false;
    int pass = 0;
  };
  // Into the pass that is being collected, or a new one if the ranks are free. Returns when it
  // begins; whether it was taken.
  bool Take(const worker::v1::ExecuteRequest& request, Seat& seat);
  void LeaveRanks(Seat& seat);
  // Leaves the ranks once the last images of the pass before are sent, and returns when all calls
  // of this pass have. Whether it did; not if `gave_up` says so first.
  bool BecomeTail(Seat& seat, const std::function<bool()>& gave_up);
  void LeaveTail(Seat& seat);
  // Ends every wait.
  void Stop();
  bool busy() const;

 private:
  bool HasOtherTail(const Seat& seat) const { return tails_ > 0 && tail_pass_ != seat.pass; }
  // For `done`, or until `gave_up`.
  void Await(std::unique_lock<std::mutex>& lock, const std::function<bool()>& done,
             const std::function<bool()>& gave_up);

  const int batch_size_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
  int pass_ = 0;  // Number of the newest,
  std::string shape_;
  int images_ = 0;
  Clock::time_point begins_;
  int on_ranks_ = 0;  // and its calls that have the ranks.
  int tails_ = 0;     // Calls that have left the ranks to the next pass: all of one.
  int tail_pass_ = 0;
};

}  // namespace patchflow
