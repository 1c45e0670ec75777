#include "engine/ports.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

namespace patchflow {
namespace {

TEST(LocalGuidanceTest, TwoBranchesAreExpandedAndCombined) {
  LocalGuidance guidance(4.5);
  const Tensor x = at::randn({3, 5, 4});
  const Tensor both = guidance.Expand(x);
  ASSERT_EQ(both.sizes(), (std::vector<int64_t>{6, 5, 4}));
  EXPECT_TRUE(at::equal(both.narrow(0, 0, 3), x));
  EXPECT_TRUE(at::equal(both.narrow(0, 3, 3), x));
  EXPECT_TRUE(at::equal(guidance.Branches(both), both));

  const Tensor negative = at::randn({3, 5, 4});
  const Tensor positive = at::randn({3, 5, 4});
  const Tensor guided = guidance.Combine(at::cat({negative, positive}));
  EXPECT_TRUE(at::allclose(guided, negative + 4.5 * (positive - negative), 1e-6, 1e-6));
}

TEST(LocalGuidanceTest, CombinesHalfPrecisionBranchesInFloat) {
  LocalGuidance guidance(7.5);
  const Tensor eps = at::randn({2, 5, 4}).to(at::kBFloat16);
  const Tensor guided = guidance.Combine(eps);
  EXPECT_EQ(guided.scalar_type(), at::kFloat);
  const Tensor exact = eps.to(at::kFloat);
  EXPECT_TRUE(at::allclose(guided, exact[0] + 7.5 * (exact[1] - exact[0]), 1e-6, 1e-6));
}

// Of sizes that leave a rest behind the vectors of each image.
TEST(LocalGuidanceTest, CombinesEachImageOfABatchAsIfItWereAlone) {
  LocalGuidance guidance(4.5);
  const Tensor eps = at::randn({6, 1023, 7});
  const Tensor guided = guidance.Combine(eps);
  for (int64_t n = 0; n < 3; ++n) {
    const Tensor alone = guidance.Combine(at::stack({eps[n], eps[3 + n]}));
    EXPECT_TRUE(at::equal(guided.narrow(0, n, 1), alone)) << n;
  }
}

TEST(LocalGuidanceTest, ScaleOneHasOneBranch) {
  LocalGuidance guidance(1);
  const Tensor x = at::randn({3, 5, 4});
  EXPECT_TRUE(at::equal(guidance.Expand(x), x));
  EXPECT_TRUE(at::equal(guidance.Branches(x), x));
  EXPECT_TRUE(at::equal(guidance.Combine(x), x));
}

TEST(LocalRowsTest, PadsWithZerosAboveAndBelow) {
  const Tensor x = at::randn({1, 2, 3, 4});
  const Tensor padded = LocalRows().WithHalo(x, 2);
  ASSERT_EQ(padded.sizes(), (std::vector<int64_t>{1, 2, 7, 4}));
  EXPECT_TRUE(at::equal(padded.narrow(2, 2, 3), x));
  EXPECT_EQ(at::count_nonzero(padded.narrow(2, 0, 2)).item<int64_t>(), 0);
  EXPECT_EQ(at::count_nonzero(padded.narrow(2, 5, 2)).item<int64_t>(), 0);
}

TEST(LocalPortsTest, OneDeviceHoldsEverything) {
  const Tensor x = at::randn({2, 3});
  EXPECT_TRUE(at::equal(LocalSum().Complete(x), x));
  const GroupMoments moments = LocalMoments().Merge({7, x, x});
  EXPECT_EQ(moments.count, 7);
  EXPECT_TRUE(at::equal(moments.mean_BG, x));
}

}  // namespace
}  // namespace patchflow
