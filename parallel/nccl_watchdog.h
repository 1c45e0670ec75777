// The one fate of all NCCL communicators of a process that belong to one world.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "parallel/nccl_handle.h"

namespace patchflow {

// Looks after every handle from a thread of its own, and aborts all of them at the first fault of
// one. Thread-safe.
class NcclWatchdog {
 public:
  explicit NcclWatchdog(absl::Duration timeout);
  ~NcclWatchdog();  // Waits a bounded time for the handles' ends.
  NcclWatchdog(const NcclWatchdog&) = delete;
  NcclWatchdog& operator=(const NcclWatchdog&) = delete;

  absl::Duration timeout() const { return timeout_; }
  // Throws CommunicatorError once aborted.
  void Add(std::shared_ptr<NcclHandle> handle);
  // Every rank's `index`-th split must have one name: throws CommunicatorError.
  void CheckSplit(size_t index, int rank, std::string_view name);

  // The first reason is kept.
  void Abort(const std::string& reason);
  std::string reason() const;  // Empty while healthy.
  // Names the communicator in the message.
  void ThrowIfAborted(const std::string& name) const;
  // Aborts and throws. What follows an abort is told as that.
  [[noreturn]] void Fail(const std::string& name, const std::string& reason);

  void ReportUnwaited(std::string what);
  std::vector<std::string> Unwaited() const;

 private:
  void Watch();
  void AbortLocked(const std::string& reason);

  const absl::Duration timeout_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<NcclHandle>> handles_;
  std::vector<std::string> splits_;
  std::vector<std::string> unwaited_;
  std::string reason_;
  bool stop_ = false;
  std::thread thread_;  // Last: it uses the others.
};

}  // namespace patchflow
