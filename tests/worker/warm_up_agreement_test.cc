#include "worker/warm_up_agreement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/parallel/run_ranks.h"

namespace patchflow {
namespace {

using testing::HasSubstr;

WarmUpPlan PlanOf(const std::string& sizes, double guidance_scale = 4.5) {
  return PlanWarmUp(ParseWarmUp(sizes).value(), {}, {}, /*on_gpus=*/false, guidance_scale);
}

TEST(WarmUpAgreementTest, RanksThatWarmUpAlikeGoOn) {
  RunRanks(3, [](const Rank& rank) {
    EXPECT_EQ(AgreeOnWarmUp(rank.world, PlanOf("64x64,128x64")), absl::OkStatus());
  });
}

TEST(WarmUpAgreementTest, EveryRankHearsOfAnotherList) {
  RunRanks(3, [](const Rank& rank) {
    const bool odd = rank.index() == 2;
    const absl::Status heard = AgreeOnWarmUp(rank.world, PlanOf(odd ? "64x64" : "64x64,128x64"));
    EXPECT_EQ(heard.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(heard.message(),
                HasSubstr(odd ? "is to make 64x64 at" : "is to make 64x64,128x64"));
    EXPECT_THAT(heard.message(),
                HasSubstr(odd ? "as 1 of the group's 3 ranks" : "as 2 of the group's 3 ranks"));
  });
}

TEST(WarmUpAgreementTest, OrderAndGuidanceCount) {
  RunRanks(2, [](const Rank& rank) {
    const bool odd = rank.index() == 1;
    EXPECT_FALSE(AgreeOnWarmUp(rank.world, PlanOf(odd ? "64x64,32x32" : "32x32,64x64")).ok());
    EXPECT_FALSE(AgreeOnWarmUp(rank.world, PlanOf("64x64", odd ? 1 : 4.5)).ok());
  });
}

}  // namespace
}  // namespace patchflow
