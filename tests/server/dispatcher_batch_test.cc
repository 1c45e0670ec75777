// Generations of one shape share a pass, and nothing else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/server/dispatcher_fixture.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::Status Cancelled() {
  return TestError(absl::StatusCode::kCancelled, reason::kCancelledByRequest);
}

absl::Status Busy() { return TestError(absl::StatusCode::kResourceExhausted, reason::kWorkerBusy); }

// Its worker takes four images at once. What is submitted before Serve() is there at once, too.
class DispatcherBatchTest : public DispatcherTest {
 protected:
  DispatcherBatchTest() : DispatcherTest(4) {}

  std::shared_ptr<Generation> SubmitOf(const std::string& id, int steps) {
    auto generation = MakeGeneration(TestSpec(id, 1, steps));
    EXPECT_TRUE(queue_.Push(generation).ok());
    return generation;
  }
  std::vector<std::string> Running() const {
    std::vector<std::string> ids;
    for (const auto& generation : group_.running()) {
      ids.push_back(generation->spec().request_id);
    }
    return ids;
  }
  bool Calls(int calls) {
    return Eventually([&] { return worker_->calls() == calls; });
  }
  // Nothing more comes, however long one waits.
  int CallsAfterAMoment() const {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return worker_->calls();
  }
  // Whether so many have told how long they waited.
  bool QueueWaits(int count) {
    return metrics_.Text([] {}).find(absl::StrCat(
               "patchflow_queue_wait_seconds_count{model=\"shapes\",priority=\"normal\"} ", count,
               "\n")) != std::string::npos;
  }
  void Finish(size_t call) {
    worker_->job(call)->Images();
    worker_->job(call)->End(absl::OkStatus());
  }
  // Its own images' bytes, which another run must make too.
  static void MakeOwn(int /*n*/, ScriptedJob& job) {
    for (const int index : job.request.image_indices()) {
      job.Image(index, absl::StrCat(job.request.request_id(), index));
    }
    job.End(absl::OkStatus());
  }
};

void Hold(int /*n*/, ScriptedJob& job) { job.Step(0, 1); }

TEST_F(DispatcherBatchTest, ThoseOfOneShapeRunAtOnceAndOthersAfterThem) {
  auto a = Submit("a");
  auto other = SubmitOf("other", 9);
  auto b = Submit("b", 2);
  auto c = Submit("c");
  Serve(Hold);
  ASSERT_TRUE(Calls(3));
  EXPECT_EQ(CallsAfterAMoment(), 3);
  EXPECT_THAT(Running(), ElementsAre("a", "b", "c"));
  EXPECT_EQ(other->standing().state, v1::STATE_QUEUED);
  for (const size_t call : {0, 1, 2}) {
    Finish(call);
  }
  ASSERT_TRUE(Ends(a) && Ends(b) && Ends(c));
  ASSERT_TRUE(Calls(4));
  EXPECT_EQ(worker_->job(3)->request.request_id(), "other");
  EXPECT_THAT(Running(), ElementsAre("other"));
}

TEST_F(DispatcherBatchTest, AFullBatchIsFollowedByTheRemainder) {
  std::vector<std::shared_ptr<Generation>> all;
  for (int i = 0; i < 6; ++i) {
    all.push_back(Submit(absl::StrCat(i)));
  }
  Serve(Hold);
  ASSERT_TRUE(Calls(4));
  EXPECT_EQ(CallsAfterAMoment(), 4);
  EXPECT_THAT(Running(), ElementsAre("0", "1", "2", "3"));
  for (const size_t call : {0, 1, 2, 3}) {
    Finish(call);
  }
  ASSERT_TRUE(Calls(6));
  EXPECT_TRUE(Eventually([&] { return Running() == std::vector<std::string>{"4", "5"}; }));
  Finish(4);
  Finish(5);
  for (const auto& generation : all) {
    ASSERT_TRUE(Ends(generation));
    EXPECT_EQ(generation->completed().attempts(), 1);
  }
  const auto batches = [this] { return metrics_.Text([] {}); };
  EXPECT_TRUE(Eventually([&] {
    return batches().find("patchflow_batch_size_count{model=\"shapes\"} 2") != std::string::npos;
  }));
  EXPECT_THAT(batches(), HasSubstr("patchflow_batch_size_sum{model=\"shapes\"} 6"));
  EXPECT_THAT(batches(), HasSubstr("patchflow_batch_size_bucket{model=\"shapes\",le=\"2\"} 1"));
}

TEST_F(DispatcherBatchTest, AGroupWithoutBatchesRunsOneAfterTheOther) {
  Group group({.name = "g", .model = "", .model_name = "shapes", .layout = "", .workers = {}});
  Submit("a");
  Submit("b");
  worker_ = std::make_shared<ScriptedWorker>(Hold);
  group.SetServing(worker_, ScriptedWorker::Info());
  Dispatcher dispatcher({group, queue_, costs_, registry_, metrics_.model("shapes")});
  ASSERT_TRUE(Calls(1));
  EXPECT_EQ(CallsAfterAMoment(), 1);
  group.Stop();
}

TEST_F(DispatcherBatchTest, EachEndsWithItsOwnLastImage) {
  auto a = Submit("a");
  auto b = Submit("b");
  Serve(Hold);
  ASSERT_TRUE(Calls(2));
  Finish(1);
  ASSERT_TRUE(Ends(b));
  EXPECT_TRUE(Eventually([&] { return Running() == std::vector<std::string>{"a"}; }));
  EXPECT_FALSE(a->ended());
  Submit("c");
  EXPECT_EQ(CallsAfterAMoment(), 2) << "the ranks still make a";
  Finish(0);
  ASSERT_TRUE(Ends(a));
  EXPECT_TRUE(Calls(3));
}

TEST_F(DispatcherBatchTest, CancellingOneLeavesTheOthersAlone) {
  auto a = Submit("a");
  auto b = Submit("b");
  auto c = Submit("c");
  Serve(Hold);
  ASSERT_TRUE(Calls(3));
  b->End(Cancelled());
  EXPECT_TRUE(worker_->job(1)->cancelled());
  EXPECT_FALSE(worker_->job(0)->cancelled() || worker_->job(2)->cancelled());
  Finish(0);
  Finish(2);
  ASSERT_TRUE(Ends(a) && Ends(c));
  EXPECT_TRUE(a->standing().status.ok() && c->standing().status.ok());
  EXPECT_FALSE(group_.complaint().has_value());
}

TEST_F(DispatcherBatchTest, AllAreMadeAgainAloneWhenTheirWorkerIsLost) {
  std::vector<std::shared_ptr<Generation>> all;
  for (const char* id : {"a", "b", "c"}) {
    all.push_back(Submit(id));
  }
  Serve([](int n, ScriptedJob& job) { n < 3 ? Hold(n, job) : job.Step(0, 2); });
  ASSERT_TRUE(Calls(3));
  for (const size_t call : {0, 1, 2}) {
    worker_->job(call)->End(Lost());
  }
  ASSERT_TRUE(Complains());
  EXPECT_TRUE(Eventually([&] { return queue_.size() == 3; }));
  EXPECT_TRUE(Eventually([&] { return group_.AtWork().empty(); }));
  Restart();
  for (const int calls : {4, 5, 6}) {
    ASSERT_TRUE(Calls(calls));
    EXPECT_EQ(CallsAfterAMoment(), calls) << "each may be what killed the worker";
    MakeOwn(0, *worker_->job(static_cast<size_t>(calls) - 1));
  }
  for (const auto& generation : all) {
    ASSERT_TRUE(Ends(generation));
    EXPECT_TRUE(generation->standing().status.ok());
    EXPECT_EQ(generation->completed().attempts(), 2);
    EXPECT_EQ(generation->image(0)->data, absl::StrCat(generation->spec().request_id, 0));
  }
  EXPECT_TRUE(QueueWaits(3)) << "each has waited once";
}

TEST_F(DispatcherBatchTest, AbortsAllWhenTheSupervisorGivesTheWorkerUp) {
  Submit("a");
  Submit("b");
  Serve(Hold);
  ASSERT_TRUE(Calls(2));
  group_.SetLost("no heartbeat");
  EXPECT_TRUE(Eventually([&] { return queue_.size() == 2; }));
  EXPECT_TRUE(worker_->job(0)->cancelled() && worker_->job(1)->cancelled());
}

TEST_F(DispatcherBatchTest, TheOneThatKillsWorkersIsPoisonAndNoneBesideIt) {
  std::vector<std::shared_ptr<Generation>> innocents;
  for (const char* id : {"a", "b", "c"}) {
    innocents.push_back(Submit(id));
  }
  GenerationSpec spec = TestSpec("poison");
  spec.fingerprint = "another";
  auto poison = MakeGeneration(std::move(spec));
  ASSERT_TRUE(queue_.Push(poison).ok());
  Serve([](int n, ScriptedJob& job) {
    if (job.request.request_id() == "poison") {
      job.End(Lost());
    } else if (n >= 4) {
      MakeAll(n, job);
    }
  });
  ASSERT_TRUE(Calls(4));
  for (const size_t call : {0, 1, 2}) {
    worker_->job(call)->End(Lost());
  }
  while (!poison->ended()) {
    ASSERT_TRUE(Complains());
    ASSERT_TRUE(Eventually([&] { return group_.AtWork().empty(); }));
    Restart();
    ASSERT_TRUE(Eventually([&] { return poison->ended() || group_.complaint().has_value(); }));
  }
  EXPECT_EQ(ReasonOf(poison->standing().status), "POISON_REQUEST");
  Restart();
  for (const auto& innocent : innocents) {
    ASSERT_TRUE(Ends(innocent));
    EXPECT_TRUE(innocent->standing().status.ok()) << innocent->standing().status;
    EXPECT_EQ(innocent->completed().attempts(), 2);
  }
}

TEST_F(DispatcherBatchTest, AnErrorOfThePassIsNotTakenForEverybodys) {
  for (const auto& [status, worker_ends] :
       {std::pair{TestError(absl::StatusCode::kInternal, reason::kNonFiniteOutput), true},
        std::pair{TestError(absl::StatusCode::kResourceExhausted, reason::kGpuOutOfMemory), true},
        std::pair{TestError(absl::StatusCode::kInvalidArgument, reason::kInvalidRequest), false}}) {
    group_.SetLost("of the case before");
    auto bad = Submit("bad");
    auto good = Submit("good");
    const auto script = [status = status](int n, ScriptedJob& job) {
      if (n < 2 || job.request.request_id() == "bad") {
        job.End(status);
      } else {
        MakeAll(n, job);
      }
    };
    Serve(script);
    if (worker_ends) {
      ASSERT_TRUE(Complains()) << status;
      ASSERT_TRUE(Eventually([&] { return queue_.size() == 2; }));
      Restart();
      ASSERT_TRUE(Ends(bad));
      Restart();
    }
    ASSERT_TRUE(Ends(bad) && Ends(good));
    EXPECT_EQ(bad->standing().status, status);
    EXPECT_TRUE(good->standing().status.ok()) << good->standing().status;
    EXPECT_EQ(worker_->calls(), 4) << status;
    EXPECT_EQ(group_.complaint().has_value(), false);
  }
}

TEST_F(DispatcherBatchTest, WhatTheWorkerDoesNotTakeIsGivenBackWithoutALoss) {
  auto a = Submit("a");
  auto b = Submit("b");
  Serve([](int n, ScriptedJob& job) { n == 1 ? job.End(Busy()) : job.Step(0, 1); });
  ASSERT_TRUE(Calls(2));
  ASSERT_TRUE(Eventually([&] { return b->standing().state == v1::STATE_QUEUED; }));
  EXPECT_EQ(b->standing().attempt, 1);
  EXPECT_TRUE(Eventually([&] { return queue_.size() == 1; }));
  EXPECT_EQ(a->standing().state, v1::STATE_RUNNING);
  EXPECT_THAT(Running(), ElementsAre("a"));
  Submit("c");
  EXPECT_EQ(CallsAfterAMoment(), 2);
  Finish(0);
  ASSERT_TRUE(Calls(4)) << "with what came meanwhile";
  EXPECT_THAT(Running(), ElementsAre("b", "c"));
  Finish(2);
  ASSERT_TRUE(Ends(b));
  EXPECT_EQ(b->completed().attempts(), 1);
  EXPECT_FALSE(group_.complaint().has_value());
  EXPECT_TRUE(QueueWaits(3)) << "each has waited once";
}

TEST_F(DispatcherBatchTest, WaitsForAWorkerThatTakesNone) {
  auto a = Submit("a");
  auto b = Submit("b");
  Serve([](int n, ScriptedJob& job) { n < 4 ? job.End(Busy()) : MakeAll(n, job); });
  ASSERT_TRUE(Ends(a) && Ends(b));
  EXPECT_EQ(worker_->calls(), 6);
  EXPECT_EQ(a->completed().attempts() + b->completed().attempts(), 2);
}

TEST_F(DispatcherBatchTest, AsksAgainForImagesThatACallLeftOut) {
  auto a = Submit("a", 2);
  auto b = Submit("b", 2);
  Serve([](int n, ScriptedJob& job) {
    if (n == 0) {
      job.Image(0);
      job.End(absl::OkStatus());
    } else {
      MakeAll(n, job);
    }
  });
  ASSERT_TRUE(Ends(a) && Ends(b));
  EXPECT_EQ(worker_->calls(), 3);
  EXPECT_THAT(worker_->job(2)->request.image_indices(), ElementsAre(1));
  EXPECT_EQ(a->completed().attempts(), 1);
}

TEST_F(DispatcherBatchTest, TheNextBatchBeginsWhenTheRanksHaveLeftAllOfTheOneBefore) {
  Serve(Hold);
  auto first = Submit("first");
  ASSERT_TRUE(Calls(1));
  for (const char* id : {"a", "b", "c", "d"}) {
    Submit(id);
  }
  auto next = SubmitOf("next", 9);
  Finish(0);
  ASSERT_TRUE(Calls(5));
  worker_->job(1)->RanksFree();
  worker_->job(2)->RanksFree();
  Finish(3);
  EXPECT_EQ(CallsAfterAMoment(), 5) << "d has the ranks";
  worker_->job(4)->RanksFree();
  ASSERT_TRUE(Calls(6));
  EXPECT_THAT(Running(), ElementsAre("next"));
  EXPECT_EQ(group_.tail().size(), 3U);
  worker_->job(5)->RanksFree();
  Submit("last");
  EXPECT_EQ(CallsAfterAMoment(), 6) << "there is one tail at most, and it is three calls";
  Finish(1);
  Finish(2);
  EXPECT_EQ(CallsAfterAMoment(), 6);
  Finish(4);
  EXPECT_TRUE(Calls(7));
}

TEST_F(DispatcherBatchTest, ALostTailIsLostByEachOfIt) {
  auto a = Submit("a");
  auto b = Submit("b");
  Serve([](int n, ScriptedJob& job) { n < 2 ? job.RanksFree() : MakeAll(n, job); });
  ASSERT_TRUE(Eventually([&] { return group_.tail().size() == 2; }));
  Finish(0);
  ASSERT_TRUE(Ends(a));
  EXPECT_TRUE(Eventually([&] { return group_.tail().size() == 1; }));
  worker_->job(1)->End(Lost());
  ASSERT_TRUE(Complains());
  Restart();
  ASSERT_TRUE(Ends(b));
  EXPECT_EQ(a->completed().attempts(), 1);
  EXPECT_EQ(b->completed().attempts(), 2);
}

TEST_F(DispatcherBatchTest, TheTimesOfAPassCountOnceForAllOfItsImages) {
  auto generation = Submit("a", 6);
  Serve([](int, ScriptedJob& job) {
    for (const int index : job.request.image_indices()) {
      job.Image(index, "image",
                {{"denoise", absl::Seconds(8)}, {"encode_image", absl::Seconds(1)}});
    }
    job.End(absl::OkStatus());
  });
  ASSERT_TRUE(Ends(generation));
  std::map<std::string, int64_t> seconds;
  const v1::Completed completed = generation->completed();
  for (const auto& timing : completed.timings()) {
    seconds[timing.stage()] = timing.duration().seconds();
  }
  EXPECT_EQ(seconds["denoise"], 2 * 8) << "four images, and two";
  EXPECT_EQ(seconds["encode_image"], 6);
  EXPECT_EQ(costs_.Expect("plan-1", generation->spec().params(), 4)->Run(TestSpec("x", 6).params()),
            2 * absl::Seconds(9));
}

TEST_F(DispatcherBatchTest, HintsAtTheTextsOfTheWholeNextBatch) {
  Serve([](int, ScriptedJob& job) { job.Step(0, 0); });
  Submit("running");
  ASSERT_TRUE(Calls(1));
  for (const char* prompt : {"a star", "a cat", "a star", "a dog", "a house"}) {
    GenerationSpec spec = TestSpec(prompt);
    spec.prompt = prompt;
    ASSERT_TRUE(queue_.Push(MakeGeneration(spec)).ok());
  }
  worker_->job(0)->Step(0, 1);
  ASSERT_TRUE(Eventually([&] { return worker_->hints().size() == 1; }));
  EXPECT_THAT(worker_->hints()[0].texts(), ElementsAre("a star", "", "a cat", "a dog"));
}

TEST_F(DispatcherBatchTest, EndsAllWhenTheServerStops) {
  std::vector<std::shared_ptr<Generation>> all;
  for (const char* id : {"a", "b", "c"}) {
    all.push_back(Submit(id));
  }
  Serve(Hold);
  ASSERT_TRUE(Calls(3));
  group_.Stop();
  for (const auto& generation : all) {
    ASSERT_TRUE(Ends(generation));
    EXPECT_EQ(ReasonOf(generation->standing().status), "DRAINING");
  }
}

}  // namespace
}  // namespace patchflow
