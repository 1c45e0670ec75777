#include "worker/worlds.h"

#include "engine/status_of.h"
#include "parallel/local_communicator.h"
#include "parallel/tcp_world.h"
#ifdef PATCHFLOW_CUDA
#include "parallel/nccl_world.h"
#endif

namespace patchflow {
namespace {

#ifdef PATCHFLOW_CUDA
absl::StatusOr<std::string> MakeNcclId() {
  return StatusOrOfThrowing<std::string>(
      []() -> absl::StatusOr<std::string> { return NcclWorld::MakeId(); });
}

absl::StatusOr<SharedWorlds> JoinGpus(const std::string& id, int size, int first_rank,
                                      const Devices& devices, absl::Duration timeout) {
  return StatusOrOfThrowing<SharedWorlds>([&]() -> absl::StatusOr<SharedWorlds> {
    auto worlds = std::make_shared<Worlds>();
    auto joined = NcclWorld::Join(id, size, first_rank, devices.of_rank, {.timeout = timeout});
    worlds->failure = [&first = *joined.front()] { return first.failure(); };
    for (auto& world : joined) {
      worlds->Add(std::move(world));
    }
    return worlds;
  });
}
#else
absl::Status NoNccl() {
  return absl::FailedPreconditionError(
      "--ranks: this build has no NCCL and can't join several GPUs: build with PATCHFLOW_CUDA");
}
absl::StatusOr<std::string> MakeNcclId() { return NoNccl(); }
absl::StatusOr<SharedWorlds> JoinGpus(const std::string& /*id*/, int /*size*/, int /*first_rank*/,
                                      const Devices& /*devices*/, absl::Duration /*timeout*/) {
  return NoNccl();
}
#endif

template <typename Joined>
SharedWorlds AllOf(Joined joined) {
  auto worlds = std::make_shared<Worlds>();
  for (auto& world : joined) {
    worlds->Add(std::move(world));
  }
  return worlds;
}

}  // namespace

absl::StatusOr<SharedWorlds> JoinHere(const Devices& devices, absl::Duration timeout) {
  const auto ranks = static_cast<int>(devices.of_rank.size());
  if (!devices.are_gpus() || ranks == 1) {
    LocalOptions local;
    local.timeout = timeout;
    return AllOf(LocalWorld::Make(ranks, local));
  }
  const absl::StatusOr<std::string> id = MakeNcclId();
  if (!id.ok()) return id.status();
  return JoinGpus(*id, ranks, 0, devices, timeout);
}

absl::StatusOr<std::string> WorldMaker::MakeId(const std::string& host) {
  if (devices_.are_gpus()) return MakeNcclId();
  return StatusOrOfThrowing<std::string>([&]() -> absl::StatusOr<std::string> {
    door_ = TcpDoor::Open(host);
    return door_->id();
  });
}

absl::StatusOr<SharedWorlds> WorldMaker::Join(const Place& place) {
  if (devices_.are_gpus()) {
    return JoinGpus(place.world_id, group_ranks_, place.first_rank, devices_, timeout_);
  }
  const auto ranks = static_cast<int>(devices_.of_rank.size());
  return StatusOrOfThrowing<SharedWorlds>([&]() -> absl::StatusOr<SharedWorlds> {
    if (place.first_rank > 0) {
      return AllOf(TcpWorld::Join(place.world_id, group_ranks_, place.first_rank, ranks,
                                  {.timeout = timeout_}));
    }
    if (door_ == nullptr || door_->id() != place.world_id) {
      return absl::UnavailableError("the id of the world was not made by this worker");
    }
    return AllOf(TcpWorld::Host(std::move(door_), group_ranks_, ranks, {.timeout = timeout_}));
  });
}

}  // namespace patchflow
