#include "parallel/tcp_world.h"

#include <utility>

#include "parallel/local_hub.h"
#include "parallel/tcp_guest.h"
#include "parallel/tcp_host.h"

namespace patchflow {
namespace {

class HostedWorld final : public TcpWorld {
 public:
  HostedWorld(std::shared_ptr<LocalHub> hub, std::shared_ptr<TcpHost> host, int rank)
      : hub_(hub), host_(std::move(host)), world_(MakeHubWorld(std::move(hub), rank)) {}
  int rank() const override { return world_->rank(); }
  int size() const override { return world_->size(); }
  std::unique_ptr<Communicator> Split(int color, std::string_view name) override {
    return world_->Split(color, name);
  }
  void Abort(const std::string& reason) override { hub_->Abort(reason); }
  std::vector<std::string> Unwaited() const override { return hub_->Unwaited(); }

 private:
  const std::shared_ptr<LocalHub> hub_;
  const std::shared_ptr<TcpHost> host_;  // Serves guests until the last rank of this process goes.
  const std::unique_ptr<LocalWorld> world_;
};

using Guests = std::vector<std::weak_ptr<TcpGuest>>;

class GuestWorld final : public TcpWorld {
 public:
  GuestWorld(std::shared_ptr<TcpGuest> guest, std::shared_ptr<Guests> all,
             std::shared_ptr<TcpLedger> ledger)
      : guest_(std::move(guest)), all_(std::move(all)), ledger_(std::move(ledger)) {}
  int rank() const override { return guest_->rank(); }
  int size() const override { return guest_->size(); }
  std::unique_ptr<Communicator> Split(int color, std::string_view name) override {
    return guest_->Split(color, name);
  }
  void Abort(const std::string& reason) override {
    for (const auto& weak : *all_) {
      if (const auto guest = weak.lock()) {
        guest->Abort(reason);
      }
    }
  }
  std::vector<std::string> Unwaited() const override { return ledger_->Unwaited(); }

 private:
  const std::shared_ptr<TcpGuest> guest_;
  const std::shared_ptr<Guests> all_;  // Of this process.
  const std::shared_ptr<TcpLedger> ledger_;
};

}  // namespace

std::vector<std::unique_ptr<TcpWorld>> TcpWorld::Host(std::unique_ptr<TcpDoor> door, int size,
                                                      int ranks, const TcpOptions& options) {
  LocalOptions local;
  local.timeout = options.timeout;
  const auto hub = std::make_shared<LocalHub>(size, local);
  const auto host = std::make_shared<TcpHost>(hub, std::move(door), ranks, options.timeout);
  std::vector<std::unique_ptr<TcpWorld>> worlds;
  worlds.reserve(static_cast<size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    worlds.push_back(std::make_unique<HostedWorld>(hub, host, rank));
  }
  return worlds;
}

std::vector<std::unique_ptr<TcpWorld>> TcpWorld::Join(const std::string& id, int size,
                                                      int first_rank, int ranks,
                                                      const TcpOptions& options) {
  const TcpAddress address = TcpAddressOf(id);
  const auto ledger = std::make_shared<TcpLedger>();
  const auto all = std::make_shared<Guests>();
  std::vector<std::unique_ptr<TcpWorld>> worlds;
  worlds.reserve(static_cast<size_t>(ranks));
  for (int rank = first_rank; rank < first_rank + ranks; ++rank) {
    auto guest = std::make_shared<TcpGuest>(address, rank, size, options.timeout, ledger);
    all->push_back(guest);
    worlds.push_back(std::make_unique<GuestWorld>(std::move(guest), all, ledger));
  }
  return worlds;
}

}  // namespace patchflow
