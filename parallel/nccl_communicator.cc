#include "parallel/nccl_communicator.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

using at::cuda::CUDAEvent;
using c10::cuda::CUDAStream;

std::shared_ptr<CUDAEvent> MakeEvent() {
  return std::make_shared<CUDAEvent>(cudaEventDisableTiming);
}

// An operation on the communicator's stream.
class NcclWork final : public Pending::Work {
 public:
  struct Parts {
    std::shared_ptr<NcclWatchdog> watchdog;
    std::shared_ptr<NcclHandle> handle;
    const char* what;
    std::shared_ptr<CUDAEvent> done;
    std::vector<Tensor> tensors;
    CUDAStream stream;  // That it runs on.
    CUDAStream issuer;  // That it was issued from.
  };
  explicit NcclWork(Parts parts) : parts_(std::move(parts)) {}

  ~NcclWork() override {
    if (waited_) {
      return;
    }
    KeepForStream();
    if (std::uncaught_exceptions() == 0 && parts_.watchdog->reason().empty()) {
      parts_.watchdog->ReportUnwaited(
          absl::StrCat(parts_.handle->name(), " communicator, ", parts_.what));
    }
  }

  void Wait() override {
    parts_.watchdog->ThrowIfAborted(parts_.handle->name());
    const CUDAStream waiter = c10::cuda::getCurrentCUDAStream(parts_.stream.device_index());
    parts_.done->block(waiter);
    waited_ = true;
    if (waiter != parts_.issuer) {
      KeepForStream();
    }
  }

 private:
  // Memory goes back to the stream that it is of, which is the issuer's and may not come after the
  // operation. (Where it does, nothing needs to be said, and inside a capture saying it would keep
  // the memory until the end of the capture.)
  void KeepForStream() noexcept {
    try {
      for (const Tensor& t : parts_.tensors) {
        t.record_stream(parts_.stream);
      }
    } catch (const std::exception&) {
      return;  // The device is lost.
    }
  }

  Parts parts_;
  bool waited_ = false;
};

ncclDataType_t SumTypeOf(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return ncclFloat32;
    case at::kBFloat16:
      return ncclBfloat16;
    case at::kHalf:
      return ncclFloat16;
    default:
      TORCH_CHECK(false, "all_reduce_sum does not take ", type);
  }
}

// Between ncclGroupStart and ncclGroupEnd: the first error, whatever follows it.
class Group {
 public:
  Group() : result_(ncclGroupStart()) {}
  void Add(ncclResult_t result) {
    if (result_ == ncclSuccess) {
      result_ = result;
    }
  }
  ncclResult_t End() {
    Add(ncclGroupEnd());
    return result_;
  }

 private:
  ncclResult_t result_;
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::shared_ptr<NcclWatchdog> watchdog, std::shared_ptr<NcclHandle> handle)
      : watchdog_(std::move(watchdog)),
        handle_(std::move(handle)),
        stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, handle_->device().index())),
        begin_(cudaEventDisableTiming) {
    Run("rank", [this](ncclComm_t comm) { return ncclCommUserRank(comm, &rank_); });
    Run("size", [this](ncclComm_t comm) { return ncclCommCount(comm, &size_); });
    if (size_ > 1) {
      Connect();
    }
  }

  // Graphs that captured it are replayed from the rank's own stream.
  ~NcclCommunicator() override {
    try {
      NcclHandle::Events after = {MakeEvent(), MakeEvent()};
      after[0]->record(c10::cuda::getCurrentCUDAStream(stream_.device_index()));
      after[1]->record(stream_);
      handle_->Destroy(std::move(after), watchdog_->timeout());
    } catch (const std::exception&) {
      handle_->Abort();
    }
  }
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Pending AllReduceSum(const Tensor& t) override {
    CheckTensor(t);
    const ncclDataType_t type = SumTypeOf(t.scalar_type());
    return Issue("all_reduce_sum", {t}, [&](ncclComm_t comm) {
      return ncclAllReduce(t.data_ptr(), t.data_ptr(), t.numel(), type, ncclSum, comm, stream_);
    });
  }

  Pending AllGather(const Tensor& in, const Tensor& out) override {
    CheckTensor(in);
    CheckTensor(out);
    TORCH_CHECK(out.dim() > 0 && out.size(0) == size_ && out.sizes().slice(1) == in.sizes() &&
                    out.scalar_type() == in.scalar_type(),
                "all_gather over ", size_, " ranks of ", in.sizes(), " into ", out.sizes());
    return Issue("all_gather", {in, out}, [&](ncclComm_t comm) {
      return ncclAllGather(in.data_ptr(), out.data_ptr(), in.nbytes(), ncclInt8, comm, stream_);
    });
  }

  Pending AllToAll(const Tensor& in, const Tensor& out) override {
    CheckTensor(in);
    CheckTensor(out);
    TORCH_CHECK(in.dim() > 0 && in.size(0) == size_ && out.sizes() == in.sizes() &&
                    out.scalar_type() == in.scalar_type(),
                "all_to_all over ", size_, " ranks of ", in.sizes(), " into ", out.sizes());
    return Issue("all_to_all", {in, out}, [&](ncclComm_t comm) { return Swap(in, out, comm); });
  }

  Pending Send(const Tensor& t, int peer) override {
    return Exchange("send", {{Transfer::Kind::kSend, t, peer}});
  }
  Pending Recv(const Tensor& t, int peer) override {
    return Exchange("recv", {{Transfer::Kind::kRecv, t, peer}});
  }
  Pending Grouped(const std::vector<Transfer>& transfers) override {
    return transfers.empty() ? Pending() : Exchange("grouped", transfers);
  }

  void Abort(const std::string& reason) override { watchdog_->Abort(reason); }

 private:
  // NCCL connects two ranks in the first call that needs it, and the host waits there for the
  // other: ranks that begin in different communicators would wait for each other. Here all are
  // together.
  void Connect() {
    const c10::cuda::CUDAStreamGuard on_stream(stream_);
    const Tensor bytes = at::zeros({2, size_, 1 << 10}, at::TensorOptions(handle_->device()));
    Issue("connect", {bytes}, [&](ncclComm_t comm) {
      return Swap(bytes[0], bytes[1], comm);
    }).Wait();
    AllReduceSum(bytes[0]).Wait();
    AllGather(bytes[0][rank_], bytes[1]).Wait();
  }

  void CheckTensor(const Tensor& t) const {
    TORCH_CHECK(t.defined() && t.device() == handle_->device() && t.is_contiguous(), "the ",
                handle_->name(), " communicator takes contiguous tensors on ", handle_->device());
  }

  Pending Exchange(const char* what, const std::vector<Transfer>& transfers) {
    std::vector<Tensor> tensors;
    for (const Transfer& transfer : transfers) {
      CheckTensor(transfer.tensor);
      TORCH_CHECK(transfer.peer >= 0 && transfer.peer < size_ && transfer.peer != rank_, "rank ",
                  rank_, " of ", size_, " can't exchange with rank ", transfer.peer);
      tensors.push_back(transfer.tensor);
    }
    return Issue(what, std::move(tensors), [&](ncclComm_t comm) {
      Group group;
      for (const Transfer& transfer : transfers) {
        const Tensor& t = transfer.tensor;
        if (t.numel() == 0) {
          continue;
        }
        group.Add(transfer.kind == Transfer::Kind::kSend
                      ? ncclSend(t.data_ptr(), t.nbytes(), ncclInt8, transfer.peer, comm, stream_)
                      : ncclRecv(t.data_ptr(), t.nbytes(), ncclInt8, transfer.peer, comm, stream_));
      }
      return group.End();
    });
  }

  // The part that stays here is copied at the speed of memory.
  ncclResult_t Swap(const Tensor& in, const Tensor& out, ncclComm_t comm) const {
    const size_t part_bytes = in.nbytes() / size_;
    const auto* const from = static_cast<const char*>(in.const_data_ptr());
    auto* const to = static_cast<char*>(out.mutable_data_ptr());
    const size_t own = part_bytes * rank_;
    C10_CUDA_CHECK(
        cudaMemcpyAsync(to + own, from + own, part_bytes, cudaMemcpyDeviceToDevice, stream_));
    Group group;
    for (int i = 1; i < size_; ++i) {
      const int next = (rank_ + i) % size_;
      const int previous = (rank_ - i + size_) % size_;
      group.Add(ncclSend(from + part_bytes * next, part_bytes, ncclInt8, next, comm, stream_));
      group.Add(
          ncclRecv(to + part_bytes * previous, part_bytes, ncclInt8, previous, comm, stream_));
    }
    return group.End();
  }

  void Run(const char* what, const std::function<ncclResult_t(ncclComm_t)>& call) {
    watchdog_->ThrowIfAborted(handle_->name());
    const ncclResult_t result =
        handle_->Call(what, [&call](ncclComm_t* comm) { return call(*comm); });
    if (result != ncclSuccess) {
      watchdog_->Fail(handle_->name(),
                      absl::StrCat(handle_->name(), " communicator, rank ", rank_, " of ", size_,
                                   ", ", what, ": ", handle_->ErrorText(result)));
    }
  }

  Pending Issue(const char* what, std::vector<Tensor> tensors,
                const std::function<ncclResult_t(ncclComm_t)>& enqueue) {
    if (std::all_of(tensors.begin(), tensors.end(),
                    [](const Tensor& t) { return t.numel() == 0; })) {
      watchdog_->ThrowIfAborted(handle_->name());
      return {};
    }
    const CUDAStream issuer = c10::cuda::getCurrentCUDAStream(stream_.device_index());
    const bool captured =
        c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
    begin_.record(issuer);
    begin_.block(stream_);
    Run(what, enqueue);
    const std::shared_ptr<CUDAEvent> done = MakeEvent();
    done->record(stream_);
    if (!captured) {
      handle_->Expect(done, what);
    }
    return Pending(std::make_unique<NcclWork>(
        NcclWork::Parts{watchdog_, handle_, what, done, std::move(tensors), stream_, issuer}));
  }

  const std::shared_ptr<NcclWatchdog> watchdog_;
  const std::shared_ptr<NcclHandle> handle_;
  const CUDAStream stream_;
  CUDAEvent begin_;
  int rank_ = -1;
  int size_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> MakeNcclCommunicator(std::shared_ptr<NcclWatchdog> watchdog,
                                                   std::shared_ptr<NcclHandle> handle) {
  return std::make_unique<NcclCommunicator>(std::move(watchdog), std::move(handle));
}

}  // namespace patchflow
