#include "worker/job_agreement.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <stdexcept>
#include <thread>
#include <vector>

namespace patchflow {
namespace {

using std::chrono::milliseconds;

TEST(JobAgreementTest, GoesOnWhileNobodyAsks) {
  JobAgreement agreement;
  for (int step = 0; step < 5; ++step) EXPECT_TRUE(agreement.Continue(step));
  EXPECT_EQ(agreement.Hold(), 4);
}

TEST(JobAgreementTest, HeldBeforeTheFirstStepSaysSo) {
  JobAgreement agreement;
  EXPECT_EQ(agreement.Hold(), -1);
  agreement.StopAt(0);
  EXPECT_FALSE(agreement.Continue(0));
}

TEST(JobAgreementTest, ALateRankRunsTheStepsThatAnEarlyOneHasBegunWhileHeld) {
  JobAgreement agreement;
  for (int step = 0; step <= 3; ++step) EXPECT_TRUE(agreement.Continue(step));
  EXPECT_EQ(agreement.Hold(), 3);
  EXPECT_TRUE(agreement.Continue(2)) << "no wait";
  EXPECT_TRUE(agreement.Continue(3)) << "no wait";
}

TEST(JobAgreementTest, AHeldRankRunsOnToTheStepOfTheFarthestProcess) {
  JobAgreement agreement;
  EXPECT_TRUE(agreement.Continue(0));
  EXPECT_EQ(agreement.Hold(), 0);
  auto rank = std::async(std::launch::async, [&] {
    int step = 1;
    while (agreement.Continue(step)) ++step;
    return step;
  });
  EXPECT_EQ(rank.wait_for(milliseconds(50)), std::future_status::timeout) << "it waits";
  agreement.StopAt(4);
  EXPECT_EQ(rank.get(), 4);
}

TEST(JobAgreementTest, GoesOnWhenTheOthersHaveEnded) {
  JobAgreement agreement;
  EXPECT_TRUE(agreement.Continue(0));
  agreement.Hold();
  agreement.StopAt(JobAgreement::kNever);
  EXPECT_TRUE(agreement.Continue(1));
}

TEST(JobAgreementTest, ARankThatIsHeldForTooLongFails) {
  JobAgreement agreement(absl::Milliseconds(50));
  agreement.Hold();
  EXPECT_THROW(agreement.Continue(0), std::runtime_error);
}

TEST(JobAgreementTest, StepsOfLaterImagesComeLater) {
  EXPECT_LT(StepOfJob(0, 1000000), StepOfJob(1, 0));
  JobAgreement agreement;
  EXPECT_TRUE(agreement.Continue(StepOfJob(1, 3)));
  agreement.StopAt(agreement.Hold() + 1);
  EXPECT_TRUE(agreement.Continue(StepOfJob(0, 20)));
  EXPECT_TRUE(agreement.Continue(StepOfJob(1, 3)));
  EXPECT_FALSE(agreement.Continue(StepOfJob(1, 4)));
}

// Two processes of two ranks each, whose ranks meet at every step, as in a collective.
TEST(JobAgreementTest, RanksOfTwoProcessesThatRaceStopAtTheSameStep) {
  for (int round = 0; round < 50; ++round) {
    JobAgreement processes[2];
    std::atomic<int> arrived[1000] = {};
    std::atomic<int> stopped_at[4] = {};
    {
      std::vector<std::jthread> ranks;
      for (int rank = 0; rank < 4; ++rank) {
        ranks.emplace_back([&, rank] {
          int step = 0;
          while (step < 999 && processes[rank / 2].Continue(step)) {
            ++arrived[step];
            while (arrived[step] < 4) std::this_thread::yield();
            ++step;
          }
          stopped_at[rank] = step;
        });
      }
      std::this_thread::sleep_for(std::chrono::microseconds(20 * round));
      const int64_t last = std::max(processes[0].Hold(), processes[1].Hold());
      for (JobAgreement& process : processes) process.StopAt(last + 1);
    }
    for (const auto& at : stopped_at) EXPECT_EQ(at, stopped_at[0]);
  }
}

}  // namespace
}  // namespace patchflow
