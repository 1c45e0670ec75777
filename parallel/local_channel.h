// The matching of operations behind one local communicator.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "parallel/local_communicator.h"

namespace patchflow {

struct LocalOperation {
  enum class Kind { kAllReduceSum, kAllGather, kAllToAll, kTransfers };
  Kind kind = Kind::kTransfers;
  Tensor in{};
  Tensor out{};
  std::vector<Communicator::Transfer> transfers{};
  std::vector<bool> moved{};  // One a transfer.
  int64_t number = 0;         // Of this rank's operations, from 0.
  bool done = false;
  // Called with the channel locked: must not call back, and not block. May be empty.
  std::function<void(const LocalOperation&)> on_done{};
};

// A queue of operations for each rank. An operation runs on whichever rank's thread finds that all
// it needs is at the head of the queues. Thread-safe.
class LocalChannel {
 public:
  LocalChannel(std::string name, int size, const LocalOptions& options)
      : name_(std::move(name)), options_(options), queues_(size), issued_(size) {}

  int size() const { return static_cast<int>(queues_.size()); }
  void Issue(int rank, const std::shared_ptr<LocalOperation>& operation);
  void Wait(int rank, const LocalOperation& operation);
  void Abort(const std::string& reason);
  // Called once with the reason, now or later, as LocalOperation::on_done is.
  void OnAbort(std::function<void(const std::string& reason)> hook);
  bool aborted();
  std::string Describe(int rank, const LocalOperation& operation) const;

 private:
  LocalOperation* Head(int rank) const;
  void Finish(int rank);
  void AbortLocked(const std::string& reason);
  void ThrowIfAborted() const;
  [[noreturn]] void Fail(const std::string& reason);
  // Each returns whether anything ran. Progress prefers what `rank` waits for.
  bool Progress(int rank);
  bool TryHead(int rank);
  bool TryCollective(int rank);
  bool TryTransfers(int rank);
  bool TryTransfer(int rank, size_t index);
  void RunCollective(LocalOperation::Kind kind);
  void RunAllReduceSum();
  void RunAllToAll();
  std::string Missing(int rank, const LocalOperation& operation) const;

  const std::string name_;
  const LocalOptions options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::deque<std::shared_ptr<LocalOperation>>> queues_;
  std::vector<int64_t> issued_;
  std::vector<std::function<void(const std::string&)>> abort_hooks_;
  std::string aborted_;  // The reason; empty while healthy.
};

}  // namespace patchflow
