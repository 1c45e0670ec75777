#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/parallel/run_ranks.h"

namespace patchflow {

int MaxRanks() { return 8; }
bool RanksAreGpus() { return false; }
at::ScalarType RanksDtype() { return at::kFloat; }

void RunRanks(int ranks, const std::function<void(const Rank&)>& fn, const RunOptions& options) {
  const LocalOptions local{.timeout = options.wait_timeout, .timing = options.timing};
  std::vector<std::shared_ptr<LocalWorld>> worlds;
  std::vector<RankPlace> places;
  for (auto& world : LocalWorld::Make(ranks, local)) {
    worlds.push_back(std::move(world));
    places.push_back({[world = worlds.back()] { return world; }, at::kCPU});
  }
  RunPlaces(places, fn, options.limit);
  if (const auto unwaited = worlds.front()->Unwaited(); !unwaited.empty()) {
    throw RankFailure(absl::StrCat("never waited for: ", absl::StrJoin(unwaited, "; ")));
  }
}

}  // namespace patchflow
