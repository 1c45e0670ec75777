#include "server/cost_model.h"

#include <gtest/gtest.h>

namespace patchflow {
namespace {

v1::EffectiveParams Params(int width, int steps, float guidance = 4.5F) {
  v1::EffectiveParams params;
  params.set_width(width);
  params.set_height(width);
  params.set_steps(steps);
  params.set_count(2);
  params.set_guidance_scale(guidance);
  return params;
}

TEST(CostModelTest, KnowsNothingOfAShapeItNeverSaw) {
  CostModel costs;
  costs.Record("plan", Params(512, 20), absl::Seconds(1), absl::Seconds(20));
  EXPECT_FALSE(costs.Expect("plan", Params(1024, 20)).has_value());
  EXPECT_FALSE(costs.Expect("other", Params(512, 20)).has_value());
  EXPECT_FALSE(costs.Expect("plan", Params(512, 20, 1)).has_value());
}

TEST(CostModelTest, ScalesWithStepsAndCount) {
  CostModel costs;
  costs.Record("plan", Params(512, 20), absl::Seconds(1), absl::Seconds(20));
  auto estimate = costs.Expect("plan", Params(512, 50));
  ASSERT_TRUE(estimate.has_value());
  EXPECT_EQ(estimate->step, absl::Seconds(1));
  EXPECT_EQ(estimate->Run(Params(512, 50)), absl::Seconds(102));
}

TEST(CostModelTest, ImagesOfABatchShareTheirSteps) {
  CostModel costs;
  costs.Record("plan", Params(512, 20), absl::Seconds(1), absl::Seconds(20));
  const auto estimate = costs.Expect("plan", Params(512, 20), /*batch_size=*/4);
  EXPECT_EQ(estimate->Run(Params(512, 20)), absl::Seconds(21)) << "two images";
  EXPECT_EQ(estimate->Images(4, 20), absl::Seconds(21));
  EXPECT_EQ(estimate->Images(5, 20), absl::Seconds(42));
}

TEST(CostModelTest, FollowsWhatItSees) {
  CostModel costs;
  for (int i = 0; i < 100; ++i) {
    costs.Record("plan", Params(512, 10), absl::ZeroDuration(), absl::Seconds(i < 50 ? 10 : 20));
  }
  const absl::Duration step = costs.Expect("plan", Params(512, 10))->step;
  EXPECT_GT(step, absl::Seconds(1.99));
  EXPECT_LE(step, absl::Seconds(2));
}

TEST(CostModelTest, IsOptimisticOnlyAfterFiveSamples) {
  CostModel costs;
  for (int i = 0; i < 4; ++i) {
    costs.Record("plan", Params(512, 1), absl::ZeroDuration(), absl::Seconds(10 - i));
    EXPECT_FALSE(costs.ExpectAtBest("plan", Params(512, 1)).has_value());
  }
  costs.Record("plan", Params(512, 1), absl::ZeroDuration(), absl::Seconds(3));
  EXPECT_EQ(costs.ExpectAtBest("plan", Params(512, 1))->step, absl::Seconds(3));
}

}  // namespace
}  // namespace patchflow
