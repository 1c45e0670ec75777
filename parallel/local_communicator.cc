#include "parallel/local_communicator.h"

#include <exception>
#include <utility>

#include "parallel/host_communicator.h"
#include "parallel/local_hub.h"

namespace patchflow {
namespace {

class LocalWork final : public Pending::Work {
 public:
  LocalWork(std::shared_ptr<LocalHub> hub, std::shared_ptr<LocalChannel> channel, int rank,
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
  const std::shared_ptr<LocalHub> hub_;
  const std::shared_ptr<LocalChannel> channel_;
  const int rank_;
  const std::shared_ptr<LocalOperation> operation_;
  bool waited_ = false;
};

class LocalCommunicator final : public HostCommunicator {
 public:
  LocalCommunicator(std::shared_ptr<LocalHub> hub, LocalHub::Member member)
      : hub_(std::move(hub)), channel_(std::move(member.channel)), rank_(member.rank) {}
  int rank() const override { return rank_; }
  int size() const override { return channel_->size(); }
  void Abort(const std::string& reason) override { channel_->Abort(reason); }

 private:
  Pending Issue(LocalOperation operation) override {
    auto shared = std::make_shared<LocalOperation>(std::move(operation));
    channel_->Issue(rank_, shared);
    return Pending(std::make_unique<LocalWork>(hub_, channel_, rank_, std::move(shared)));
  }

  const std::shared_ptr<LocalHub> hub_;
  const std::shared_ptr<LocalChannel> channel_;
  const int rank_;
};

class HubWorld final : public LocalWorld {
 public:
  HubWorld(std::shared_ptr<LocalHub> hub, int rank) : hub_(std::move(hub)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return hub_->size(); }
  std::unique_ptr<Communicator> Split(int color, std::string_view name) override {
    LocalHub::Member member = hub_->Split(splits_++, rank_, color, name);
    if (member.channel == nullptr) {
      return nullptr;
    }
    return std::make_unique<LocalCommunicator>(hub_, std::move(member));
  }
  void Abort(const std::string& reason) override { hub_->Abort(reason); }
  std::vector<std::string> Unwaited() const override { return hub_->Unwaited(); }

 private:
  const std::shared_ptr<LocalHub> hub_;
  const int rank_;
  size_t splits_ = 0;
};

}  // namespace

std::unique_ptr<LocalWorld> MakeHubWorld(std::shared_ptr<LocalHub> hub, int rank) {
  return std::make_unique<HubWorld>(std::move(hub), rank);
}

std::vector<std::unique_ptr<LocalWorld>> LocalWorld::Make(int size, const LocalOptions& options) {
  const auto hub = std::make_shared<LocalHub>(size, options);
  std::vector<std::unique_ptr<LocalWorld>> worlds;
  for (int rank = 0; rank < size; ++rank) {
    worlds.push_back(MakeHubWorld(hub, rank));
  }
  return worlds;
}

}  // namespace patchflow
