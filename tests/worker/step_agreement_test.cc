#include "worker/step_agreement.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace patchflow {
namespace {

TEST(StepAgreementTest, StopsBeforeTheFirstStepThatNoneHasBegun) {
  StepAgreement agreement;
  EXPECT_TRUE(agreement.Continue(0, false));
  EXPECT_TRUE(agreement.Continue(1, false));
  EXPECT_FALSE(agreement.Continue(2, true));
}

TEST(StepAgreementTest, ALateRankRunsTheStepsThatAnEarlyOneHasBegun) {
  StepAgreement agreement;
  for (int step = 0; step <= 5; ++step) EXPECT_TRUE(agreement.Continue(step, false));
  EXPECT_TRUE(agreement.Continue(3, true));
  EXPECT_TRUE(agreement.Continue(4, true));
  EXPECT_TRUE(agreement.Continue(5, true));
  EXPECT_FALSE(agreement.Continue(6, true));
}

TEST(StepAgreementTest, TheDecisionStandsWhenTheWishIsSeenByOneRankAlone) {
  StepAgreement agreement;
  EXPECT_TRUE(agreement.Continue(0, false));
  EXPECT_FALSE(agreement.Continue(1, true));
  EXPECT_FALSE(agreement.Continue(1, false));
}

TEST(StepAgreementTest, RanksThatRaceStopAtTheSameStep) {
  for (int round = 0; round < 20; ++round) {
    StepAgreement agreement;
    std::atomic<bool> stop = false;
    std::vector<int> stopped_at(4);
    {
      std::vector<std::jthread> ranks;
      for (int& at : stopped_at) {
        ranks.emplace_back([&] {
          while (agreement.Continue(at, stop)) ++at;
        });
      }
      std::this_thread::yield();
      stop = true;
    }
    for (const int at : stopped_at) EXPECT_EQ(at, stopped_at.front());
  }
}

}  // namespace
}  // namespace patchflow
