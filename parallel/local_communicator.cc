#include "parallel/local_communicator.h"

#include <ATen/ATen.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "parallel/local_channel.h"

namespace patchflow {
namespace {

using Kind = LocalOperation::Kind;

// What the ranks of a world share.
class Hub {
 public:
  Hub(int size, const LocalOptions& options) : size_(size), options_(options) {}
  int size() const { return size_; }

  struct Member {
    std::shared_ptr<LocalChannel> channel;
    int rank = 0;
  };
  // The `index`-th split of this world.
  Member Split(size_t index, int rank, int color, std::string_view name);
  void Abort(const std::string& reason);
  void ReportUnwaited(std::string what);
  std::vector<std::string> Unwaited();

 private:
  struct SplitCall {
    std::string name;
    std::vector<int> colors;
    std::vector<Member> members;  // Empty until every rank has come.
    int arrived = 0;
  };
  void Resolve(SplitCall& call);
  [[noreturn]] void Fail(const std::string& reason);
  void AbortLocked(const std::string& reason);

  const int size_;
  const LocalOptions options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<SplitCall> splits_;
  std::vector<std::weak_ptr<LocalChannel>> channels_;
  std::vector<std::string> unwaited_;
  std::string aborted_;
};

Hub::Member Hub::Split(size_t index, int rank, int color, std::string_view name) {
  const auto deadline =
      std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(options_.timeout);
  std::unique_lock<std::mutex> lock(mutex_);
  while (splits_.size() <= index) {
    splits_.push_back({std::string(name), std::vector<int>(size_), {}, 0});
  }
  SplitCall& call = splits_[index];
  if (call.name != name) {
    Fail(absl::StrCat("rank ", rank, " splits off '", std::string(name), "' where another splits '",
                      call.name, "'"));
  }
  call.colors[rank] = color;
  if (++call.arrived == size_) {
    Resolve(call);
    changed_.notify_all();
  }
  while (call.members.empty()) {
    if (!aborted_.empty()) {
      throw CommunicatorError(absl::StrCat("the world was aborted: ", aborted_));
    }
    if (changed_.wait_until(lock, deadline) == std::cv_status::timeout && call.members.empty() &&
        aborted_.empty()) {
      Fail(absl::StrCat("rank ", rank, " waited ", absl::FormatDuration(options_.timeout), " for ",
                        size_ - call.arrived, " ranks to split off '", call.name, "'"));
    }
  }
  return call.members[rank];
}

void Hub::Resolve(SplitCall& call) {
  std::map<int, int> sizes;
  for (const int color : call.colors) {
    ++sizes[color];
  }
  std::map<int, Member> next;
  for (const int color : call.colors) {
    Member& member = next[color];
    if (color >= 0 && member.channel == nullptr) {
      member.channel = std::make_shared<LocalChannel>(call.name, sizes[color], options_);
      channels_.push_back(member.channel);
    }
    call.members.push_back(member);
    ++member.rank;
  }
}

void Hub::Fail(const std::string& reason) {
  AbortLocked(reason);
  throw CommunicatorError(reason);
}

void Hub::Abort(const std::string& reason) {
  std::lock_guard<std::mutex> lock(mutex_);
  AbortLocked(reason);
}

void Hub::AbortLocked(const std::string& reason) {
  if (aborted_.empty()) {
    aborted_ = reason;
  }
  for (const auto& weak : channels_) {
    if (const auto channel = weak.lock()) {
      channel->Abort(reason);
    }
  }
  changed_.notify_all();
}

void Hub::ReportUnwaited(std::string what) {
  std::lock_guard<std::mutex> lock(mutex_);
  unwaited_.push_back(std::move(what));
}

std::vector<std::string> Hub::Unwaited() {
  std::lock_guard<std::mutex> lock(mutex_);
  return unwaited_;
}

class LocalWork final : public Pending::Work {
 public:
  LocalWork(std::shared_ptr<Hub> hub, std::shared_ptr<LocalChannel> channel, int rank,
            std::shared_ptr<LocalOperation> operation)
      : hub_(std::move(hub)),
        channel_(std::move(channel)),
        rank_(rank),
        operation_(std::move(operation)) {}
  ~LocalWork() override {
    if (!waited_ && std::uncaught_exceptions() == 0 && !channel_->aborted()) {
      hub_->ReportUnwaited(channel_->Describe(rank_, *operation_));
    }
  }
  void Wait() override {
    waited_ = true;
    channel_->Wait(rank_, *operation_);
  }

 private:
  const std::shared_ptr<Hub> hub_;
  const std::shared_ptr<LocalChannel> channel_;
  const int rank_;
  const std::shared_ptr<LocalOperation> operation_;
  bool waited_ = false;
};

void CheckTensor(const Tensor& t) {
  TORCH_CHECK(t.defined() && t.is_cpu() && t.is_contiguous(),
              "local communicators take contiguous tensors in host memory");
}

class LocalCommunicator final : public Communicator {
 public:
  LocalCommunicator(std::shared_ptr<Hub> hub, Hub::Member member)
      : hub_(std::move(hub)), channel_(std::move(member.channel)), rank_(member.rank) {}
  int rank() const override { return rank_; }
  int size() const override { return channel_->size(); }

  Pending AllReduceSum(const Tensor& t) override {
    CheckTensor(t);
    TORCH_CHECK(t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16 ||
                    t.scalar_type() == at::kHalf,
                "all_reduce_sum does not take ", t.scalar_type());
    return Issue({.kind = Kind::kAllReduceSum, .in = t, .out = t});
  }

  Pending AllGather(const Tensor& in, const Tensor& out) override {
    CheckTensor(in);
    CheckTensor(out);
    TORCH_CHECK(out.dim() > 0 && out.size(0) == size() && out.sizes().slice(1) == in.sizes() &&
                    out.scalar_type() == in.scalar_type(),
                "all_gather over ", size(), " ranks of ", in.sizes(), " into ", out.sizes());
    return Issue({.kind = Kind::kAllGather, .in = in, .out = out});
  }

  Pending AllToAll(const Tensor& in, const Tensor& out) override {
    CheckTensor(in);
    CheckTensor(out);
    TORCH_CHECK(in.dim() > 0 && in.size(0) == size() && out.sizes() == in.sizes() &&
                    out.scalar_type() == in.scalar_type(),
                "all_to_all over ", size(), " ranks of ", in.sizes(), " into ", out.sizes());
    return Issue({.kind = Kind::kAllToAll, .in = in, .out = out});
  }

  Pending Send(const Tensor& t, int peer) override {
    return Grouped({{Transfer::Kind::kSend, t, peer}});
  }
  Pending Recv(const Tensor& t, int peer) override {
    return Grouped({{Transfer::Kind::kRecv, t, peer}});
  }

  Pending Grouped(const std::vector<Transfer>& transfers) override {
    if (transfers.empty()) {
      return {};
    }
    for (const Transfer& transfer : transfers) {
      CheckTensor(transfer.tensor);
      TORCH_CHECK(transfer.peer >= 0 && transfer.peer < size() && transfer.peer != rank_, "rank ",
                  rank_, " of ", size(), " can't exchange with rank ", transfer.peer);
    }
    return Issue({.kind = Kind::kTransfers,
                  .transfers = transfers,
                  .moved = std::vector<bool>(transfers.size())});
  }

  void Abort(const std::string& reason) override { channel_->Abort(reason); }

 private:
  Pending Issue(LocalOperation operation) {
    auto shared = std::make_shared<LocalOperation>(std::move(operation));
    channel_->Issue(rank_, shared);
    return Pending(std::make_unique<LocalWork>(hub_, channel_, rank_, std::move(shared)));
  }

  const std::shared_ptr<Hub> hub_;
  const std::shared_ptr<LocalChannel> channel_;
  const int rank_;
};

class HubWorld final : public LocalWorld {
 public:
  HubWorld(std::shared_ptr<Hub> hub, int rank) : hub_(std::move(hub)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return hub_->size(); }
  std::unique_ptr<Communicator> Split(int color, std::string_view name) override {
    Hub::Member member = hub_->Split(splits_++, rank_, color, name);
    if (member.channel == nullptr) {
      return nullptr;
    }
    return std::make_unique<LocalCommunicator>(hub_, std::move(member));
  }
  void Abort(const std::string& reason) override { hub_->Abort(reason); }
  std::vector<std::string> Unwaited() const override { return hub_->Unwaited(); }

 private:
  const std::shared_ptr<Hub> hub_;
  const int rank_;
  size_t splits_ = 0;
};

}  // namespace

std::vector<std::unique_ptr<LocalWorld>> LocalWorld::Make(int size, const LocalOptions& options) {
  const auto hub = std::make_shared<Hub>(size, options);
  std::vector<std::unique_ptr<LocalWorld>> worlds;
  for (int rank = 0; rank < size; ++rank) {
    worlds.push_back(std::make_unique<HubWorld>(hub, rank));
  }
  return worlds;
}

}  // namespace patchflow
