// The ring of stages, which needs its edges to progress apart: over host memory and over NCCL.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

#include "parallel/mesh.h"
#include "tests/parallel/run_ranks.h"

namespace patchflow {
namespace {

std::vector<int> StagesThatFit() {
  std::vector<int> stages = {2, 3, 4, 5, 8};
  std::erase_if(stages, [](int n) { return n > MaxRanks(); });
  return stages;
}

class MeshEdgesTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Stages, MeshEdgesTest, testing::ValuesIn(StagesThatFit()));

// Every stage sends before it receives: only separate edges let all of them through.
TEST_P(MeshEdgesTest, EveryStageReachesTheNextAndTheLastTheFirst) {
  const int stages = GetParam();
  RunRanks(stages, [stages](const Rank& rank) {
    Layout layout;
    layout.pipefusion = stages;
    const Mesh mesh = MakeMesh(layout, rank.world);
    ASSERT_EQ(mesh.to_next->size(), 2);
    ASSERT_EQ(mesh.from_previous->size(), 2);
    const auto like = at::TensorOptions(at::kLong).device(rank.device);
    const Tensor mine = at::full({1}, rank.index(), like);
    const Tensor received = at::full({1}, -1, like);
    Pending send = mesh.to_next->Send(mine, 1 - mesh.to_next->rank());
    mesh.from_previous->Recv(received, 1 - mesh.from_previous->rank()).Wait();
    send.Wait();
    EXPECT_EQ(received.item<int64_t>(), (rank.index() + stages - 1) % stages);
  });
}

}  // namespace
}  // namespace patchflow
