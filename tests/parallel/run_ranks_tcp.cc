#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "parallel/tcp_world.h"
#include "tests/parallel/run_ranks.h"

namespace patchflow {

int MaxRanks() { return 8; }
bool RanksAreGpus() { return false; }
at::ScalarType RanksDtype() { return at::kFloat; }

// The first half of the ranks as host, the next as one process of guests, the last as another,
// which differ from processes in nothing that the connections could tell.
void RunRanks(int ranks, const std::function<void(const Rank&)>& fn, const RunOptions& options) {
  const TcpOptions tcp{.timeout = options.wait_timeout};
  auto door = TcpDoor::Open("127.0.0.1");
  const std::string id = door->id();
  const int hosted = std::max(1, ranks / 2);
  std::vector<std::unique_ptr<TcpWorld>> joined =
      TcpWorld::Host(std::move(door), ranks, hosted, tcp);
  for (int first = hosted; first < ranks;) {
    const int count = first == hosted ? std::max(1, (ranks - hosted) / 2) : ranks - first;
    for (auto& world : TcpWorld::Join(id, ranks, first, count, tcp)) {
      joined.push_back(std::move(world));
    }
    first += count;
  }
  std::vector<std::shared_ptr<TcpWorld>> worlds;
  std::vector<RankPlace> places;
  for (auto& world : joined) {
    worlds.push_back(std::move(world));
    places.push_back({[world = worlds.back()] { return world; }, at::kCPU});
  }
  RunPlaces(places, fn, options.limit);
  for (const auto& world : worlds) {
    if (const auto unwaited = world->Unwaited(); !unwaited.empty()) {
      throw RankFailure(absl::StrCat("never waited for: ", absl::StrJoin(unwaited, "; ")));
    }
  }
}

}  // namespace patchflow
