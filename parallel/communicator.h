// The ranks along one axis of the mesh, and what they send each other.
#pragma once

#include <ATen/core/Tensor.h>

#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace patchflow {

using at::Tensor;

// An enqueued operation. Wait() orders the caller's current stream after it; it never blocks the
// host on a GPU. Keeps its tensors alive. Destroying one that was not waited for is a bug, which a
// test mode of the communicator reports. Does not outlive its communicator.
class [[nodiscard]] Pending {
 public:
  class Work {
   public:
    virtual ~Work() = default;
    virtual void Wait() = 0;
  };
  Pending() = default;  // Nothing to wait for.
  explicit Pending(std::unique_ptr<Work> work) : work_(std::move(work)) {}
  void Wait() {
    if (work_ != nullptr) {
      work_->Wait();
      work_.reset();
    }
  }

 private:
  std::unique_ptr<Work> work_;
};

// Not thread-safe: one host thread a rank issues every call, all ranks in the same order.
// Operations of one communicator run in order, on a stream of its own, after what the caller's
// current stream holds when they are issued. Tensors are contiguous, and must not be written before
// the operation was waited for; inputs are read when the operation runs. A peer that failed or did
// not come within the timeout makes Wait() or the next call throw CommunicatorError.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // In place. float32, bfloat16, float16.
  virtual Pending AllReduceSum(const Tensor& t) = 0;
  // out is [size, *in.sizes()].
  virtual Pending AllGather(const Tensor& in, const Tensor& out) = 0;
  // Dim 0 of both is the peer.
  virtual Pending AllToAll(const Tensor& in, const Tensor& out) = 0;
  // Run when both sides have come to it, so that two ranks that send to each other first wait for
  // ever: exchanges are Grouped(), or use a communicator for each direction.
  virtual Pending Send(const Tensor& t, int peer) = 0;
  virtual Pending Recv(const Tensor& t, int peer) = 0;
  // Sends and receives that progress together, whatever their order. Those between one pair of
  // ranks match in the order listed. The peer of a transfer is another rank.
  struct Transfer {
    enum class Kind { kSend, kRecv } kind;
    Tensor tensor;
    int peer;
  };
  virtual Pending Grouped(const std::vector<Transfer>& transfers) = 0;

  // Unblocks every rank of this communicator, now and for ever. Thread-safe.
  virtual void Abort(const std::string& reason) = 0;
};

class CommunicatorError : public std::exception {
 public:
  explicit CommunicatorError(std::string what) : what_(std::move(what)) {}
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  std::string what_;
};

}  // namespace patchflow
