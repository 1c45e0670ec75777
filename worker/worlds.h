// What carries the words between the ranks of a group: threads, NCCL, or TCP.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "parallel/counting_communicator.h"
#include "parallel/tcp_door.h"
#include "worker/devices.h"
#include "worker/place.h"

namespace patchflow {

// Of the ranks of this process, in the order of destruction's reverse.
struct Worlds {
  std::vector<std::unique_ptr<World>> carriers;
  std::vector<std::unique_ptr<CountingWorld>> of_rank;
  std::function<std::string()> failure;  // See GuardEngine(). Empty where faults always throw.

  void Add(std::unique_ptr<World> world) {
    of_rank.push_back(std::make_unique<CountingWorld>(*world));
    carriers.push_back(std::move(world));
  }
};
using SharedWorlds = std::shared_ptr<Worlds>;

// All ranks of the group in this process: NCCL between GPUs, threads otherwise. `timeout` is that
// of a rank's wait for another. FAILED_PRECONDITION for GPUs in a build without NCCL.
absl::StatusOr<SharedWorlds> JoinHere(const Devices& devices, absl::Duration timeout);

// Ranks of several processes.
class WorldMaker {
 public:
  // `devices`: those of this process.
  WorldMaker(Devices devices, int group_ranks, absl::Duration timeout)
      : devices_(std::move(devices)), group_ranks_(group_ranks), timeout_(timeout) {}

  // In the process that will host rank 0: the id of a new world. NCCL's own, or on CPUs where
  // `host`, as other hosts know this one, listens from now on. UNAVAILABLE if it can't.
  absl::StatusOr<std::string> MakeId(const std::string& host);
  // Returns at once: the ranks meet at their first split. UNAVAILABLE for another worker's id.
  absl::StatusOr<SharedWorlds> Join(const Place& place);

 private:
  const Devices devices_;
  const int group_ranks_;
  const absl::Duration timeout_;
  std::unique_ptr<TcpDoor> door_;  // Of the last id.
};

}  // namespace patchflow
