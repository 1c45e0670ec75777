#include "parallel/merged_moments.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <mutex>

#include "parallel/vae_decode.h"
#include "tests/parallel/run_ranks.h"

namespace patchflow {
namespace {

constexpr int64_t kGroups = 4;
constexpr int64_t kWidth = 6;

// values_GhW, in float64.
GroupMoments MomentsOf(const Tensor& values_GhW) {
  const Tensor flat = values_GhW.to(at::kDouble).flatten(1);
  const Tensor mean = flat.mean(1, /*keepdim=*/true);
  return {static_cast<double>(flat.size(1)), mean.view({1, -1}).to(at::kFloat),
          (flat - mean).square().sum(1).view({1, -1}).to(at::kFloat)};
}

// What every rank finds of an image of which rank r holds shares[r] of the rows, enlarged.
std::vector<GroupMoments> Merged(const Tensor& image_GhW, int ranks, int64_t enlarged = 1,
                                 LocalTiming timing = LocalTiming::kAtIssue) {
  std::vector<GroupMoments> found(ranks);
  const auto shares = RowShares(image_GhW.size(1) / enlarged, ranks);
  RunRanks(ranks,
           [&](const Rank& rank) {
             const auto all = rank.world.Split(0, "all");
             MergedMoments moments(*all, shares, rank.device, {});
             const RowRange own = shares[rank.index()];
             GroupMoments held =
                 MomentsOf(image_GhW.narrow(1, own.begin * enlarged, own.size() * enlarged));
             held.mean_BG = held.mean_BG.to(rank.device);
             held.m2_BG = held.m2_BG.to(rank.device);
             GroupMoments merged = moments.Merge(held);
             merged.mean_BG = merged.mean_BG.cpu();
             merged.m2_BG = merged.m2_BG.cpu();
             found[rank.index()] = merged;
           },
           {.timing = timing});
  return found;
}

double Error(const Tensor& found, const Tensor& expected) {
  return ((found - expected).abs() / expected.abs()).max().item<double>();
}

// Rows get brighter downwards: nearly all of the variance is between the ranks.
Tensor Slope(int64_t rows, double offset) {
  at::manual_seed(4);
  const Tensor slope = at::arange(rows, at::kFloat).view({1, -1, 1});
  return at::randn({kGroups, rows, kWidth}) * 0.1 + 10 * slope + offset;
}

TEST(MergedMomentsTest, AreThoseOfTheWholeImage) {
  for (const int ranks : {1, 2, 3, 4}) {
    if (ranks > MaxRanks()) continue;
    for (const int64_t rows : {4, 7, 13}) {
      for (const LocalTiming timing : {LocalTiming::kAtIssue, LocalTiming::kAtWait}) {
        const Tensor image_GhW = Slope(rows, 3);
        const GroupMoments expected = MomentsOf(image_GhW);
        for (const GroupMoments& found : Merged(image_GhW, ranks, 1, timing)) {
          EXPECT_EQ(found.count, expected.count);
          EXPECT_LT(Error(found.mean_BG, expected.mean_BG), 1e-6) << ranks << " ranks";
          EXPECT_LT(Error(found.m2_BG, expected.m2_BG), 1e-5) << ranks << " ranks";
        }
      }
    }
  }
}

TEST(MergedMomentsTest, CountsFollowTheResolution) {
  const Tensor image_GhW = Slope(5 * 8, 3);
  const GroupMoments expected = MomentsOf(image_GhW);
  for (const GroupMoments& found : Merged(image_GhW, 2, 8)) {
    EXPECT_EQ(found.count, 40 * kWidth);
    EXPECT_LT(Error(found.m2_BG, expected.m2_BG), 1e-5);
  }
}

// E[x^2] - E[x]^2 in float32 has nothing left of this variance.
TEST(MergedMomentsTest, DoNotCancel) {
  at::manual_seed(4);
  const Tensor image_GhW = at::randn({kGroups, 9, kWidth}) + 4096;
  const GroupMoments expected = MomentsOf(image_GhW);
  for (const GroupMoments& found : Merged(image_GhW, 2)) {
    EXPECT_LT(Error(found.m2_BG, expected.m2_BG), 1e-3);
  }
}

TEST(MergedMomentsTest, AllRanksGetTheSameBits) {
  const auto found = Merged(Slope(11, 3), 2);
  EXPECT_TRUE(at::equal(found[0].mean_BG, found[1].mean_BG));
  EXPECT_TRUE(at::equal(found[0].m2_BG, found[1].m2_BG));
}

TEST(MergedMomentsTest, TellsAfterEachMerge) {
  RunRanks(2, [](const Rank& rank) {
    const auto all = rank.world.Split(0, "all");
    int told = 0;
    MergedMoments moments(*all, RowShares(2, 2), rank.device, [&] { ++told; });
    const Tensor ones = at::ones({1, kGroups}, rank.device);
    moments.Merge({6, ones, ones});
    moments.Merge({6, ones, ones});
    EXPECT_EQ(told, 2);
  });
}

}  // namespace
}  // namespace patchflow
