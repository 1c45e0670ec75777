#include "parallel/mesh.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/parallel/run_ranks.h"

namespace patchflow {
namespace {

Layout Parsed(std::string_view text) { return ParseLayout(text).value(); }

TEST(MeshTest, TensorVariesFastestThenSequenceThenStage) {
  const Degrees degrees{.tensor = 2, .ulysses = 3, .sequence = 3, .stages = 5, .branches = 2};
  EXPECT_EQ(RankOf(degrees, {1, 0, 0, 0}), 1);
  EXPECT_EQ(RankOf(degrees, {0, 1, 0, 0}), 2);
  EXPECT_EQ(RankOf(degrees, {0, 0, 1, 0}), 6);
  EXPECT_EQ(RankOf(degrees, {0, 0, 0, 1}), 30);
  for (int rank = 0; rank < degrees.ranks(); ++rank) {
    EXPECT_EQ(RankOf(degrees, CoordinatesOf(degrees, rank)), rank);
  }
}

// World ranks of a communicator's members, in its order.
std::vector<int> Members(Communicator* axis, int rank) {
  if (axis == nullptr) {
    return {};
  }
  const Tensor all = at::empty({axis->size(), 1}, at::kLong);
  axis->AllGather(at::full({1}, rank, at::kLong), all).Wait();
  const auto* data = all.const_data_ptr<int64_t>();
  return {data, data + axis->size()};
}

TEST(MeshTest, AxesAreTheRanksThatDifferInOneCoordinate) {
  RunRanks(8, [](const Rank& rank) {
    const Mesh mesh = MakeMesh(Parsed("ulysses=2,pipefusion=2,guidance=2"), rank.world);
    const int r = rank.index();
    EXPECT_EQ(mesh.tensor, nullptr);
    EXPECT_EQ(mesh.ring, nullptr);
    EXPECT_EQ(Members(mesh.ulysses.get(), r), (std::vector<int>{r & ~1, r | 1}));
    EXPECT_EQ(Members(mesh.sequence.get(), r), (std::vector<int>{r & ~1, r | 1}));
    EXPECT_EQ(Members(mesh.stages.get(), r), (std::vector<int>{r & ~2, r | 2}));
    EXPECT_EQ(Members(mesh.guidance.get(), r), (std::vector<int>{r & ~4, r | 4}));
    EXPECT_EQ(mesh.world->size(), 8);
    EXPECT_EQ(mesh.first_stage(), (r & 2) == 0);
    EXPECT_EQ(mesh.last_stage(), (r & 2) != 0);
  });
}

TEST(MeshTest, UlyssesIsTheNearAxisAlsoBesideTensor) {
  RunRanks(8, [](const Rank& rank) {
    const Mesh mesh = MakeMesh(Parsed("tensor=2,ulysses=2,ring=2"), rank.world);
    const int r = rank.index();
    EXPECT_EQ(Members(mesh.tensor.get(), r), (std::vector<int>{r & ~1, r | 1}));
    EXPECT_EQ(Members(mesh.ulysses.get(), r), (std::vector<int>{r & ~2, r | 2}));
    EXPECT_EQ(Members(mesh.ring.get(), r), (std::vector<int>{r & ~4, r | 4}));
    EXPECT_EQ(mesh.sequence->size(), 4);
    EXPECT_EQ(mesh.sequence->rank(), mesh.here.sequence);
  });
}

TEST(MeshTest, SerialHasNoCommunicators) {
  RunRanks(1, [](const Rank& rank) {
    const Mesh mesh = MakeMesh(Layout{}, rank.world);
    EXPECT_EQ(mesh.world, nullptr);
    EXPECT_EQ(mesh.sequence, nullptr);
    EXPECT_EQ(mesh.to_next, nullptr);
    EXPECT_TRUE(mesh.first_stage() && mesh.last_stage());
  });
}

TEST(MeshTest, RefusesAWorldOfAnotherSize) {
  EXPECT_THROW(RunRanks(2, [](const Rank& rank) { MakeMesh(Layout{}, rank.world); }), RankFailure);
}

}  // namespace
}  // namespace patchflow
