// One rank's NCCL communicator: calls that can be interrupted, what it waits for, and its end.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAEvent.h>
#include <nccl.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace patchflow {

// Owned by a shared_ptr: NCCL writes to slot() from a thread of its own, and the communicator ends
// on another. The rank's thread makes the calls; the watchdog looks on.
class NcclHandle : public std::enable_shared_from_this<NcclHandle> {
 public:
  using Clock = std::chrono::steady_clock;

  NcclHandle(std::string name, at::Device device) : name_(std::move(name)), device_(device) {}
  const std::string& name() const { return name_; }
  at::Device device() const { return device_; }

  // Where NCCL puts a communicator that is split off another, at any moment of the split.
  ncclComm_t* slot() { return &slot_; }
  // After the split.
  void TakeFromSlot();

  // What `call` returns, on the handle's device; no one else touches the communicator meanwhile.
  // ncclInvalidUsage, without calling, once it is being aborted. `what` is for the watchdog, and a
  // literal.
  ncclResult_t Call(const char* what, const std::function<ncclResult_t(ncclComm_t*)>& call);
  // Of the last call that failed.
  std::string ErrorText(ncclResult_t result) const;

  // `done` follows the operation enqueued last.
  void Expect(std::shared_ptr<at::cuda::CUDAEvent> done, const char* what);
  // What is wrong by now, in words; empty if nothing is. One thread.
  std::string Fault(absl::Duration timeout);

  using Events = std::vector<std::shared_ptr<at::cuda::CUDAEvent>>;
  // Ends it, on a thread of its own, once these have happened; after the timeout as Abort() does.
  void Destroy(Events after, absl::Duration timeout);
  // Ends it now, also when it is waiting to be destroyed, and interrupts what runs: kernels, and a
  // call that the rank's thread is in.
  void Abort();
  // Whether it has ended, or does so within the time given.
  bool WaitUntilEnded(Clock::time_point until);

 private:
  struct Expected {
    std::shared_ptr<at::cuda::CUDAEvent> done;
    const char* what = nullptr;
  };
  void StartEnd(Events after, absl::Duration timeout);
  void RunEnd(bool abort);
  std::string CallFault(absl::Duration timeout) const;
  std::string OperationFault(absl::Duration timeout);
  std::string AsyncFault();

  const std::string name_;
  const at::Device device_;
  std::timed_mutex calling_;  // Guards the communicator.
  ncclComm_t comm_ = nullptr;
  ncclComm_t slot_ = nullptr;
  std::atomic<const char*> call_{nullptr};
  std::atomic<Clock::time_point> call_began_{Clock::time_point()};

  std::mutex expected_mutex_;
  Expected latest_;
  Expected watched_;  // Of the watchdog's thread.
  Clock::time_point watched_since_;

  std::atomic<bool> ending_{false};
  std::atomic<bool> abort_{false};
  std::mutex end_mutex_;
  std::condition_variable end_changed_;
  bool ended_ = false;
};

}  // namespace patchflow
