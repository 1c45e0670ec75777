#include "server/served_model.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/server/generations.h"
#include "tests/server/scripted_worker.h"

namespace patchflow {
namespace {

class ServedModelTest : public ::testing::Test {
 protected:
  static GroupConfig Config(const std::string& name) {
    return {.name = name, .model = "", .model_name = "shapes", .layout = "", .workers = {}};
  }
  void Serve(Group& group, const std::string& plan) {
    group.SetServing(std::make_shared<ScriptedWorker>([](int, ScriptedJob&) {}),
                     ScriptedWorker::Info(plan));
  }
  std::shared_ptr<Generation> Queued(const std::string& plan) {
    GenerationSpec spec = TestSpec(absl::StrCat("id", ++ids_));
    spec.accepted.set_plan_digest(plan);
    auto generation = MakeGeneration(std::move(spec));
    EXPECT_TRUE(model_.queue().Push(generation).ok());
    return generation;
  }
  static std::string EndOf(const std::shared_ptr<Generation>& generation) {
    return generation->ended() ? ReasonOf(generation->standing().status) : "";
  }
  std::string Refusal() { return ReasonOf(model_.ChoosePlan().status()); }

  int ids_ = 0;
  Metrics metrics_{{"shapes"}, {"a", "b"}};
  Group a_{Config("a")};
  Group b_{Config("b")};
  ServedModel model_{"shapes", {&a_, &b_}, Limits{}, metrics_.model("shapes")};
};

TEST_F(ServedModelTest, EndsWhatNoGroupCanRunTheSameWay) {
  Serve(a_, "plan-1");
  Serve(b_, "plan-1");
  auto waiting = Queued("plan-1");
  model_.EndHopeless({absl::Seconds(100)});
  EXPECT_EQ(EndOf(waiting), "");
  a_.SetLost("died");
  b_.SetLost("died");
  model_.EndHopeless({absl::Seconds(100)});
  EXPECT_EQ(EndOf(waiting), "") << "a group of its plan may come back";
  Serve(a_, "plan-2");
  model_.EndHopeless({absl::Seconds(100)});
  EXPECT_EQ(EndOf(waiting), "") << "b may still come back with it";
  Serve(b_, "plan-2");
  model_.EndHopeless({absl::Seconds(100)});
  EXPECT_EQ(EndOf(waiting), "PLAN_CHANGED");
  EXPECT_EQ(waiting->standing().status.code(), absl::StatusCode::kUnavailable);
}

TEST_F(ServedModelTest, LetsWhatWasRestoredWaitForGroupsThatStart) {
  Serve(a_, "plan-2");
  auto restored = MakeGeneration(TestSpec("restored"));
  model_.queue().PushAgain(restored);
  model_.EndHopeless({absl::Seconds(100)});
  EXPECT_EQ(EndOf(restored), "") << "b has never been ready: it may have the plan";
  Serve(b_, "plan-3");
  model_.EndHopeless({absl::Seconds(100)});
  EXPECT_EQ(EndOf(restored), "PLAN_CHANGED");
}

TEST_F(ServedModelTest, DoesNotWaitWithoutEndForGroupsThatNeverStart) {
  Serve(a_, "plan-2");
  auto restored = MakeGeneration(TestSpec("restored"));
  restored->SetDurable();
  model_.queue().PushAgain(restored);
  model_.EndHopeless({absl::ZeroDuration(), absl::Seconds(100)});
  EXPECT_EQ(EndOf(restored), "PLAN_CHANGED") << "b is not even there";
}

TEST_F(ServedModelTest, WaitsForAGroupThatLoadsAsLongAsItMayLoad) {
  const auto says = [](Group& group, worker::v1::WorkerState state) {
    worker::v1::WatchResponse beat;
    beat.set_state(state);
    group.Beat(beat);
  };
  Serve(a_, "plan-1");
  Serve(b_, "plan-2");
  auto waiting = Queued("plan-1");
  a_.SetLost("died");
  says(a_, worker::v1::WORKER_STATE_LOADING);
  model_.EndHopeless({absl::ZeroDuration(), absl::Seconds(100)});
  EXPECT_EQ(EndOf(waiting), "");
  says(a_, worker::v1::WORKER_STATE_WARMING);
  model_.EndHopeless({absl::ZeroDuration(), absl::Seconds(100)});
  EXPECT_EQ(EndOf(waiting), "");
  model_.EndHopeless({absl::ZeroDuration(), absl::ZeroDuration()});
  EXPECT_EQ(EndOf(waiting), "ENGINE_RECOVERING") << "b has another plan";
}

TEST_F(ServedModelTest, WhatIsStoredWaitsForAGroupThatAnOperatorMayMend) {
  Serve(a_, "plan-1");
  Serve(b_, "plan-1");
  auto attached = Queued("plan-1");
  auto stored = Queued("plan-1");
  stored->SetDurable();
  a_.SetFailed("sick", true);
  b_.SetFailed("sick", true);
  model_.EndHopeless({absl::Seconds(100)});
  EXPECT_EQ(EndOf(attached), "ENGINE_FAILED");
  EXPECT_EQ(EndOf(stored), "");
  a_.Resume();
  model_.EndHopeless({absl::ZeroDuration()});
  EXPECT_EQ(EndOf(stored), "") << "not back in time, but it may come";
  Serve(a_, "plan-1");
  const auto batch = model_.queue().PopBatch("plan-1", 1, absl::ZeroDuration());
  ASSERT_EQ(batch.size(), 1U);
  EXPECT_EQ(batch.front(), stored);
}

TEST_F(ServedModelTest, WhatIsStoredEndsWithTheProcessAsDrained) {
  Serve(a_, "plan-1");
  Serve(b_, "plan-1");
  auto stored = Queued("plan-1");
  stored->SetDurable();
  a_.SetFailed("five failures in a row");
  b_.SetFailed("five failures in a row");
  model_.EndHopeless({absl::Seconds(100), absl::Seconds(100), true});
  EXPECT_EQ(EndOf(stored), "DRAINING") << "the next process goes on with it";
}

TEST_F(ServedModelTest, WhatIsStoredDoesNotWaitForAPlanThatIsGone) {
  Serve(a_, "plan-2");
  Serve(b_, "plan-2");
  auto stored = Queued("plan-1");
  stored->SetDurable();
  model_.EndHopeless({absl::Seconds(100)});
  EXPECT_EQ(EndOf(stored), "PLAN_CHANGED");
}

TEST_F(ServedModelTest, EndsWhatWaitsTooLongForALostGroup) {
  Serve(a_, "plan-1");
  Serve(b_, "plan-1");
  auto waiting = Queued("plan-1");
  a_.SetLost("died");
  b_.SetLost("died");
  model_.EndHopeless({absl::ZeroDuration()});
  EXPECT_EQ(EndOf(waiting), "ENGINE_RECOVERING");
  EXPECT_TRUE(RetryDelayOf(waiting->standing().status).has_value());
}

TEST_F(ServedModelTest, EndsEverythingWhenAllGroupsAreGivenUp) {
  Serve(a_, "plan-1");
  Serve(b_, "plan-1");
  auto waiting = Queued("plan-1");
  a_.SetFailed("sick");
  b_.SetFailed("sick");
  model_.EndHopeless({absl::Seconds(100)});
  EXPECT_EQ(EndOf(waiting), "ENGINE_FAILED");
  EXPECT_EQ(Refusal(), "ENGINE_FAILED");
}

TEST_F(ServedModelTest, RefusesWhileItStartsAndWhileItRecovers) {
  EXPECT_EQ(Refusal(), "STARTING");
  EXPECT_FALSE(model_.ready());
  Serve(a_, "plan-1");
  EXPECT_EQ(Refusal(), "");
  EXPECT_TRUE(model_.ready());
  a_.SetLost("died");
  EXPECT_EQ(Refusal(), "") << "lost for the first time it comes back at once";
  a_.SetLost("died again");
  EXPECT_EQ(Refusal(), "ENGINE_RECOVERING");
}

TEST_F(ServedModelTest, ChoosesThePlanOfTheLeastLoaded) {
  Serve(a_, "plan-1");
  Serve(b_, "plan-2");
  Queued("plan-1");
  EXPECT_EQ((*model_.ChoosePlan())->plan_digest(), "plan-2");
  Queued("plan-2");
  Queued("plan-2");
  EXPECT_EQ((*model_.ChoosePlan())->plan_digest(), "plan-1");
}

TEST_F(ServedModelTest, EstimatesNothingItHasNoSamplesOf) {
  Serve(a_, "plan-1");
  EXPECT_EQ(model_.EstimateWait("plan-1", {}), absl::ZeroDuration());
  EXPECT_FALSE(model_.EstimateWait("plan-1", {Queued("plan-1")}).has_value());
}

TEST_F(ServedModelTest, CountsOnlyGroupsThatServe) {
  Serve(a_, "plan-1");
  Serve(b_, "plan-1");
  model_.costs().Record("plan-1", TestSpec("x").params(), absl::Seconds(1), absl::Seconds(4));
  b_.SetLost("died");
  EXPECT_EQ(model_.EstimateWait("plan-1", {Queued("plan-1"), Queued("plan-1")}), absl::Seconds(10));
}

TEST_F(ServedModelTest, AddsTheLoadingOfTheOnlyGroup) {
  const auto serve = [](Group& group, int seconds) {
    worker::v1::DescribeResponse info = ScriptedWorker::Info("plan-1");
    info.mutable_load_time()->set_seconds(seconds);
    group.SetServing(nullptr, info);
  };
  serve(a_, 1000);
  model_.costs().Record("plan-1", TestSpec("x").params(), absl::Seconds(1), absl::Seconds(4));
  a_.SetLost("died");
  for (const auto& [ahead, seconds] :
       {std::pair{std::vector<std::shared_ptr<Generation>>{}, 1000}, {{Queued("plan-1")}, 1005}}) {
    const auto wait = model_.EstimateWait("plan-1", ahead);
    ASSERT_TRUE(wait.has_value());
    EXPECT_GT(*wait, absl::Seconds(seconds - 5));
    EXPECT_LE(*wait, absl::Seconds(seconds));
  }
  serve(b_, 0);
  b_.SetLost("died");
  a_.SetFailed("sick");
  EXPECT_FALSE(model_.EstimateWait("plan-1", {}).has_value()) << "nobody knows when b comes back";
}

TEST_F(ServedModelTest, SharesTheWorkAheadBetweenItsGroups) {
  Serve(a_, "plan-1");
  Serve(b_, "plan-1");
  const v1::EffectiveParams params = TestSpec("x").params();
  model_.costs().Record("plan-1", params, absl::Seconds(1), absl::Seconds(4));
  const auto wait = model_.EstimateWait("plan-1", {Queued("plan-1"), Queued("plan-1")});
  ASSERT_TRUE(wait.has_value());
  EXPECT_EQ(*wait, absl::Seconds(5)) << "two of 5 s on two groups";
}

TEST_F(ServedModelTest, MarksImagesAlikeWhicheverGroupMakesThem) {
  GroupConfig config = Config("unmarked");
  config.provenance_mark = false;
  Group unmarked(config);
  EXPECT_TRUE(
      ServedModel("m", {&a_, &unmarked}, Limits{}, metrics_.model("shapes")).marks_provenance());
  EXPECT_FALSE(
      ServedModel("m", {&unmarked}, Limits{}, metrics_.model("shapes")).marks_provenance());
}

class BatchedWaitTest : public ServedModelTest {
 protected:
  BatchedWaitTest() {
    worker::v1::DescribeResponse info = ScriptedWorker::Info("plan-1");
    info.set_batch_size(4);
    a_.SetServing(nullptr, info);
    for (int i = 0; i < 5; ++i) {
      model_.costs().Record("plan-1", Params(), absl::Seconds(1), absl::Seconds(8));
    }
  }
  static v1::EffectiveParams Params(int count = 1, int steps = 4) {
    return TestSpec("x", count, steps).params();
  }
  static std::vector<std::shared_ptr<Generation>> Some(int number, int count = 1, int steps = 4) {
    std::vector<std::shared_ptr<Generation>> some;
    for (int i = 0; i < number; ++i) {
      some.push_back(MakeGeneration(TestSpec("x", count, steps)));
    }
    return some;
  }
  static std::vector<std::shared_ptr<Generation>> Joined(
      std::vector<std::shared_ptr<Generation>> all,
      const std::vector<std::shared_ptr<Generation>>& more) {
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

TEST_F(BatchedWaitTest, CountsTheStepsOfABatchOnce) {
  EXPECT_EQ(model_.BatchSizeOf("plan-1"), 4);
  EXPECT_EQ(model_.EstimateWait("plan-1", Some(1)), absl::Seconds(9));
  EXPECT_EQ(model_.EstimateWait("plan-1", Some(4)), absl::Seconds(9));
  EXPECT_EQ(model_.EstimateWait("plan-1", Some(5)), absl::Seconds(18));
  EXPECT_EQ(model_.EstimateWait("plan-1", Joined(Some(3), Some(1, 1, 8))), absl::Seconds(9 + 17))
      << "another number of steps is another batch";
}

TEST_F(BatchedWaitTest, CountsWhatRunsAsOneBatch) {
  const auto running = Some(2);
  std::vector<Group::Work> works;
  for (const auto& generation : running) {
    generation->Start();
    generation->SetStep(0, 1);
    works.push_back({generation, [] {}});
  }
  a_.SetRunning(a_.WaitServing()->epoch, works);
  EXPECT_EQ(model_.EstimateWait("plan-1", {}), absl::Seconds(9 - 2)) << "3 of 4 steps are left";
}

TEST_F(BatchedWaitTest, AtBestSharesABatchThatWaits) {
  EXPECT_EQ(model_.BestWait("plan-1", Params(), Some(3)), absl::ZeroDuration());
  EXPECT_EQ(model_.BestWait("plan-1", Params(), Some(9, 1, 8)), absl::ZeroDuration())
      << "it may be taken before another shape";
  EXPECT_EQ(model_.BestWait("plan-1", Params(), Joined(Some(4), Some(9, 3))), absl::Seconds(9))
      << "four of one image fill a batch; beside three there may be room";
}

}  // namespace
}  // namespace patchflow
