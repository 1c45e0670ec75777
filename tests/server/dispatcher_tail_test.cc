// The last image of one generation is sent while the ranks make the next.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/server/dispatcher_fixture.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using DispatcherTailTest = DispatcherTest;

// "a" leaves the ranks at once and its tail goes on for ever; the rest is made as asked.
void LeaveTheFirst(int n, ScriptedJob& job) {
  if (n == 0) {
    job.RanksFree();
  } else {
    MakeAll(n, job);
  }
}

// "a" leaves the ranks at once; nothing else is told.
void HoldAll(int n, ScriptedJob& job) {
  if (n == 0) {
    job.RanksFree();
  }
}

TEST_F(DispatcherTailTest, TheNextRunsWhileTheLastImageOfTheOneBeforeIsSent) {
  Serve([](int n, ScriptedJob& job) {
    if (n == 0) {
      job.Step(0, 4);
      job.RanksFree();
    } else {
      job.Step(0, 1);
    }
  });
  group_.SetLost("once");
  group_.SetServing(worker_, ScriptedWorker::Info());
  auto first = Submit("a");
  auto second = Submit("b");
  ASSERT_TRUE(Eventually([&] { return second->standing().step == 1; }));
  EXPECT_THAT(group_.tail(), ElementsAre(first));
  EXPECT_THAT(group_.running(), ElementsAre(second));
  EXPECT_THAT(group_.AtWork(), ElementsAre(first, second));
  EXPECT_EQ(first->standing().state, v1::STATE_RUNNING);
  EXPECT_EQ(group_.failures(), 1);
  worker_->job(0)->Images();
  worker_->job(0)->End(absl::OkStatus());
  ASSERT_TRUE(Ends(first));
  EXPECT_EQ(first->standing().state, v1::STATE_SUCCEEDED);
  EXPECT_TRUE(Eventually([&] { return group_.failures() == 0; })) << "a job was completed";
  EXPECT_TRUE(Eventually([&] { return group_.tail().empty(); }));
  EXPECT_THAT(group_.running(), ElementsAre(second));
  worker_->job(1)->Images();
  worker_->job(1)->End(absl::OkStatus());
  ASSERT_TRUE(Ends(second));
  EXPECT_TRUE(Eventually([&] { return group_.AtWork().empty(); }));
}

TEST_F(DispatcherTailTest, ThereIsOneTailAtMost) {
  Serve([](int, ScriptedJob& job) { job.RanksFree(); });
  for (const char* id : {"a", "b", "c"}) {
    Submit(id);
  }
  ASSERT_TRUE(Eventually([&] { return worker_->calls() == 2; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(worker_->calls(), 2) << "the second waits with its own";
  worker_->job(0)->Images();
  worker_->job(0)->End(absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return worker_->calls() == 3; }));
}

TEST_F(DispatcherTailTest, ATailIsLostWithItsWorkerAndTheRunningOneToo) {
  Serve([](int n, ScriptedJob& job) {
    if (n == 0) {
      job.Image(0);
      job.RanksFree();
    } else if (n == 2) {
      job.RanksFree();
    } else if (n > 2) {
      MakeAll(n, job);
    }
  });
  auto first = Submit("a", 2);
  auto second = Submit("b");
  ASSERT_TRUE(Eventually([&] { return worker_->calls() == 2; }));
  worker_->job(0)->End(Lost());
  worker_->job(1)->End(Lost());
  ASSERT_TRUE(Complains());
  ASSERT_TRUE(Eventually(
      [&] { return first->standing().attempt == 2 && second->standing().attempt == 2; }));
  EXPECT_EQ(queue_.size(), 2U);
  Restart();
  ASSERT_TRUE(Eventually([&] { return worker_->calls() == 3; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(worker_->calls(), 3) << "either may have killed the worker: they run alone";
  const auto again = worker_->job(2);
  const bool is_first = again->request.request_id() == "a";
  EXPECT_THAT(again->request.image_indices(), ElementsAre(is_first ? 1 : 0));
  again->Images();
  again->End(absl::OkStatus());
  ASSERT_TRUE(Ends(first) && Ends(second));
  EXPECT_EQ(first->completed().attempts(), 2);
  EXPECT_EQ(second->completed().attempts(), 2);
}

TEST_F(DispatcherTailTest, NoneIsPoisonedByWhatRunsBesideIt) {
  Serve([this](int n, ScriptedJob& job) {
    job.RanksFree();
    if (job.request.request_id() == "poison") {
      for (int i = 0; i < n; ++i) {
        worker_->job(static_cast<size_t>(i))->End(Lost());
      }
      job.End(Lost());
    }
  });
  GenerationSpec spec = TestSpec("poison");
  spec.fingerprint = "another";
  auto poison = MakeGeneration(std::move(spec));
  auto innocent = Submit("a");
  ASSERT_TRUE(queue_.Push(poison).ok());
  ASSERT_TRUE(Complains());
  ASSERT_TRUE(Eventually([&] { return queue_.size() == 2; }));
  while (!innocent->ended() || !poison->ended()) {
    const int calls = worker_->calls();
    Restart();
    ASSERT_TRUE(Eventually([&] { return worker_->calls() > calls; }));
    // What is beside a poisonous one has no time to end.
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const auto last = worker_->job(static_cast<size_t>(worker_->calls()) - 1);
    last->Images();
    last->End(absl::OkStatus());
    ASSERT_TRUE(Eventually([&] {
      return group_.AtWork().empty() && (queue_.size() == 0 || group_.complaint().has_value());
    }));
  }
  EXPECT_TRUE(innocent->standing().status.ok()) << innocent->standing().status;
  EXPECT_EQ(innocent->completed().attempts(), 2);
  EXPECT_EQ(ReasonOf(poison->standing().status), "POISON_REQUEST");
}

TEST_F(DispatcherTailTest, ATailThatNoRerunCanHealEndsAlone) {
  const absl::Status refused =
      TestError(absl::StatusCode::kInvalidArgument, reason::kInvalidRequest);
  Serve(LeaveTheFirst);
  auto generation = Submit("a");
  ASSERT_TRUE(Eventually([&] { return !group_.tail().empty(); }));
  worker_->job(0)->End(refused);
  ASSERT_TRUE(Ends(generation));
  EXPECT_EQ(generation->standing().status, refused);
  auto next = Submit("b");
  ASSERT_TRUE(Ends(next));
  EXPECT_TRUE(next->standing().status.ok());
  EXPECT_FALSE(group_.complaint().has_value());
}

TEST_F(DispatcherTailTest, CountsATailWithoutItsImageAsALoss) {
  Serve(LeaveTheFirst);
  auto generation = Submit("a", 2);
  ASSERT_TRUE(Eventually([&] { return !group_.tail().empty(); }));
  worker_->job(0)->Image(0);
  worker_->job(0)->End(absl::OkStatus());
  ASSERT_TRUE(Complains());
  Restart();
  ASSERT_TRUE(Ends(generation));
  EXPECT_THAT(worker_->job(1)->request.image_indices(), ElementsAre(1));
}

TEST_F(DispatcherTailTest, ACancelledTailDisturbsNobody) {
  Serve(HoldAll);
  auto first = Submit("a");
  auto second = Submit("b");
  ASSERT_TRUE(Eventually([&] { return worker_->calls() == 2; }));
  first->End(TestError(absl::StatusCode::kCancelled, reason::kCancelledByRequest));
  EXPECT_TRUE(worker_->job(0)->cancelled());
  EXPECT_FALSE(worker_->job(1)->cancelled());
  worker_->job(1)->Images();
  worker_->job(1)->End(absl::OkStatus());
  ASSERT_TRUE(Ends(second));
  EXPECT_TRUE(second->standing().status.ok());
  EXPECT_FALSE(group_.complaint().has_value());
}

TEST_F(DispatcherTailTest, IsDrainedWhenItsTailHasEnded) {
  Serve(LeaveTheFirst);
  auto generation = Submit("a");
  ASSERT_TRUE(Eventually([&] { return !group_.tail().empty(); }));
  group_.Retire();
  queue_.Interrupt();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(group_.drained());
  worker_->job(0)->Images();
  worker_->job(0)->End(absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return group_.drained(); }));
  EXPECT_EQ(generation->standing().state, v1::STATE_SUCCEEDED);
}

TEST_F(DispatcherTailTest, ALostTailIsRunAgainBeforeItIsDrained) {
  Serve(LeaveTheFirst);
  auto generation = Submit("a");
  ASSERT_TRUE(Eventually([&] { return !group_.tail().empty(); }));
  group_.Retire();
  queue_.Interrupt();
  worker_->job(0)->End(Lost());
  ASSERT_TRUE(Complains());
  Restart();
  ASSERT_TRUE(Ends(generation));
  EXPECT_TRUE(generation->standing().status.ok());
  EXPECT_TRUE(Eventually([&] { return group_.drained(); }));
}

TEST_F(DispatcherTailTest, ASilentTailIsToldThoughTheRunningOneTalks) {
  Serve(HoldAll);
  auto first = Submit("a");
  auto second = Submit("b", 1);
  ASSERT_TRUE(Eventually([&] { return worker_->calls() == 2; }));
  for (int step = 1; group_.SilentFor() < absl::Milliseconds(60); ++step) {
    ASSERT_LT(step, 1000);
    worker_->job(1)->Step(0, step);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  worker_->job(0)->Step(0, 4, worker::v1::JOB_PHASE_ENCODE);
  worker_->job(1)->Step(0, 4);
  EXPECT_TRUE(Eventually([&] { return group_.SilentFor() < absl::Milliseconds(50); }));
}

TEST_F(DispatcherTailTest, EndsItsJobAndItsTailWhenTheServerStops) {
  Serve(HoldAll);
  auto first = Submit("a");
  auto second = Submit("b");
  ASSERT_TRUE(Eventually([&] { return worker_->calls() == 2; }));
  group_.Stop();
  for (const auto& generation : {first, second}) {
    ASSERT_TRUE(Ends(generation));
    EXPECT_EQ(ReasonOf(generation->standing().status), "DRAINING");
  }
}

}  // namespace
}  // namespace patchflow
