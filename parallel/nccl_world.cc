#include "parallel/nccl_world.h"

#include <c10/cuda/CUDAGuard.h>
#include <c10/util/Exception.h>
#include <nccl.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "parallel/nccl_communicator.h"
#include "parallel/nccl_handle.h"
#include "parallel/nccl_watchdog.h"

namespace patchflow {
namespace {

constexpr std::chrono::milliseconds kProgressPoll(1);

// One rank. Its own communicator carries nothing but splits. That one never blocks, so that a peer
// that does not come is noticed here; those split from it do, since each call on one that does not
// would start a thread.
class JoinedWorld final : public NcclWorld {
 public:
  JoinedWorld(ncclUniqueId id, int rank, int size, at::Device device, const NcclOptions& options,
              std::shared_ptr<NcclWatchdog> watchdog)
      : id_(id),
        rank_(rank),
        size_(size),
        options_(options),
        watchdog_(std::move(watchdog)),
        handle_(std::make_shared<NcclHandle>("root", device)) {}
  ~JoinedWorld() override {
    if (joined_) {
      handle_->Destroy({}, watchdog_->timeout());
    }
  }
  JoinedWorld(const JoinedWorld&) = delete;
  JoinedWorld& operator=(const JoinedWorld&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  std::unique_ptr<Communicator> Split(int color, std::string_view name) override {
    watchdog_->CheckSplit(splits_++, rank_, name);
    Join();
    auto part = std::make_shared<NcclHandle>(std::string(name), handle_->device());
    watchdog_->Add(part);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 1;
    if (const auto most = options_.most_blocks.find(name); most != options_.most_blocks.end()) {
      config.maxCTAs = most->second;
    }
    const int nccl_color = color < 0 ? NCCL_SPLIT_NOCOLOR : color;
    Await(absl::StrCat("split off '", std::string(name), "'"), [&](ncclComm_t* comm) {
      return ncclCommSplit(*comm, nccl_color, rank_, part->slot(), &config);
    });
    part->TakeFromSlot();
    if (color < 0) {
      part->Destroy({}, watchdog_->timeout());
      return nullptr;
    }
    return MakeNcclCommunicator(watchdog_, std::move(part));
  }

  void Abort(const std::string& reason) override { watchdog_->Abort(reason); }
  std::string failure() const override { return watchdog_->reason(); }
  std::vector<std::string> Unwaited() const override { return watchdog_->Unwaited(); }

 private:
  void Join() {
    if (joined_) {
      return;
    }
    watchdog_->Add(handle_);
    joined_ = true;
    Await("join", [this](ncclComm_t* comm) {
      ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
      config.blocking = 0;
      return ncclCommInitRankConfig(comm, size_, id_, rank_, &config);
    });
  }

  // Until what `begin` began is over.
  void Await(const std::string& what, const std::function<ncclResult_t(ncclComm_t*)>& begin) {
    const auto until = NcclHandle::Clock::now() + absl::ToChronoNanoseconds(watchdog_->timeout());
    // A split returns ncclSuccess while it is in progress: only the state tells.
    ncclResult_t result = handle_->Call("split", begin);
    if (result == ncclSuccess || result == ncclInProgress) {
      result = State();
    }
    while (result == ncclInProgress) {
      watchdog_->ThrowIfAborted(handle_->name());
      if (NcclHandle::Clock::now() >= until) {
        watchdog_->Fail(handle_->name(), absl::StrCat("rank ", rank_, " of ", size_, " waited ",
                                                      absl::FormatDuration(watchdog_->timeout()),
                                                      " for the others to ", what));
      }
      std::this_thread::sleep_for(kProgressPoll);
      result = State();
    }
    if (result != ncclSuccess) {
      watchdog_->Fail(handle_->name(), absl::StrCat("rank ", rank_, " of ", size_, " can't ", what,
                                                    ": ", handle_->ErrorText(result)));
    }
  }

  ncclResult_t State() {
    return handle_->Call("split", [](ncclComm_t* comm) {
      ncclResult_t state = ncclSuccess;
      const ncclResult_t asked = ncclCommGetAsyncError(*comm, &state);
      return asked == ncclSuccess ? state : asked;
    });
  }

  const ncclUniqueId id_;
  const int rank_;
  const int size_;
  const NcclOptions options_;
  const std::shared_ptr<NcclWatchdog> watchdog_;
  const std::shared_ptr<NcclHandle> handle_;
  bool joined_ = false;
  size_t splits_ = 0;
};

}  // namespace

std::string NcclWorld::MakeId() {
  ncclUniqueId id;
  if (const ncclResult_t result = ncclGetUniqueId(&id); result != ncclSuccess) {
    throw CommunicatorError(absl::StrCat("no NCCL id: ", ncclGetErrorString(result), " (",
                                         ncclGetLastError(nullptr), ")"));
  }
  return {id.internal, sizeof id.internal};
}

std::vector<std::unique_ptr<NcclWorld>> NcclWorld::Join(const std::string& id, int size,
                                                        int first_rank,
                                                        const std::vector<at::Device>& devices,
                                                        const NcclOptions& options) {
  TORCH_CHECK(id.size() == kIdBytes, "an NCCL id has ", kIdBytes, " bytes, this one ", id.size());
  ncclUniqueId nccl_id;
  static_assert(sizeof nccl_id.internal == kIdBytes);
  TORCH_CHECK(first_rank >= 0 && first_rank + static_cast<int>(devices.size()) <= size, "ranks ",
              first_rank, " .. ", first_rank + static_cast<int>(devices.size()) - 1,
              " are not in a world of ", size);
  std::memcpy(nccl_id.internal, id.data(), id.size());
  const auto watchdog = std::make_shared<NcclWatchdog>(options.timeout);
  std::vector<std::unique_ptr<NcclWorld>> worlds;
  for (size_t i = 0; i < devices.size(); ++i) {
    TORCH_CHECK(devices[i].is_cuda() && devices[i].has_index(), "rank ",
                first_rank + static_cast<int>(i), " has no GPU: ", devices[i]);
    worlds.push_back(std::make_unique<JoinedWorld>(nccl_id, first_rank + static_cast<int>(i), size,
                                                   devices[i], options, watchdog));
  }
  return worlds;
}

}  // namespace patchflow
