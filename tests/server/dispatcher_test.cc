#include "server/dispatcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "server/job.h"
#include "tests/server/generations.h"
#include "tests/server/scripted_worker.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;

absl::Status Lost() { return absl::UnavailableError("Socket closed"); }

class DispatcherTest : public ::testing::Test {
 protected:
  ~DispatcherTest() override {
    group_.Stop();
    queue_.Close();
    queue_.Interrupt();
    dispatcher_.reset();
  }

  void Serve(ScriptedWorker::Script script, const std::string& plan = "plan-1") {
    worker_ = std::make_shared<ScriptedWorker>(std::move(script));
    group_.SetServing(worker_, ScriptedWorker::Info(plan));
    if (dispatcher_ == nullptr) {
      dispatcher_ = std::make_unique<Dispatcher>(
          Dispatcher::Parts{group_, queue_, costs_, registry_, metrics_.model("shapes")});
    }
  }
  // What the supervisor does once it has a complaint: the same script goes on.
  void Restart() {
    group_.SetLost("lost");
    group_.SetServing(worker_, ScriptedWorker::Info());
  }
  std::shared_ptr<Generation> Submit(const std::string& id, int count = 1) {
    auto generation = MakeGeneration(TestSpec(id, count));
    EXPECT_TRUE(queue_.Push(generation).ok());
    return generation;
  }
  static bool Ends(const std::shared_ptr<Generation>& generation) {
    return Eventually([&] { return generation->ended(); });
  }
  bool Complains() {
    return Eventually([&] { return group_.complaint().has_value(); });
  }

  Group group_{
      GroupConfig{.name = "g", .model = "", .model_name = "shapes", .layout = "", .workers = {}}};
  RequestQueue queue_{QueueBounds{.requests = 10}};
  CostModel costs_;
  Registry registry_{1 << 20, absl::Seconds(300)};
  Metrics metrics_{{"shapes"}, {"g"}};
  std::shared_ptr<ScriptedWorker> worker_;
  std::unique_ptr<Dispatcher> dispatcher_;
};

void MakeAll(int /*n*/, ScriptedJob& job) {
  job.Images();
  job.End(absl::OkStatus());
}

TEST_F(DispatcherTest, HandsOverImagesAndLearnsTheirCost) {
  Serve(MakeAll);
  auto generation = Submit("a", 2);
  ASSERT_TRUE(Ends(generation));
  EXPECT_EQ(generation->standing().state, v1::STATE_SUCCEEDED);
  EXPECT_EQ(generation->image(1)->data, "image");
  EXPECT_TRUE(costs_.Expect("plan-1", generation->spec().params()).has_value());
  EXPECT_TRUE(Eventually([&] { return group_.running() == nullptr; }));
  EXPECT_EQ(worker_->job(0)->request.prompt(), "a red circle");
}

// The worker tells only where it stands when it is asked: the denoising may be over by then.
TEST_F(DispatcherTest, KnowsTheLastStepFromTheDecoding) {
  Serve([](int /*n*/, ScriptedJob& job) {
    job.Step(0, 0, worker::v1::JOB_PHASE_TEXT);
    job.Step(0, 1, worker::v1::JOB_PHASE_DECODE);
  });
  auto generation = Submit("a");
  EXPECT_TRUE(Eventually([&] { return generation->standing().step == 1; }));
}

TEST_F(DispatcherTest, RunsOnlyTheMissingImagesAgain) {
  Serve([](int n, ScriptedJob& job) {
    if (n == 0) {
      job.Image(0);
      job.Step(1, 3);
      job.End(Lost());
    } else {
      MakeAll(n, job);
    }
  });
  auto generation = Submit("a", 3);
  ASSERT_TRUE(Complains());
  ASSERT_TRUE(Eventually([&] { return generation->standing().attempt == 2; }));
  EXPECT_EQ(generation->standing().state, v1::STATE_QUEUED);
  Restart();
  ASSERT_TRUE(Ends(generation));
  EXPECT_EQ(generation->standing().state, v1::STATE_SUCCEEDED);
  EXPECT_THAT(worker_->job(1)->request.image_indices(), ElementsAre(1, 2));
}

TEST_F(DispatcherTest, RunsAgainWhatARankThrewAt) {
  Serve([](int n, ScriptedJob& job) {
    if (n == 0) {
      job.End(TestError(absl::StatusCode::kInternal, reason::kInternal));
    } else {
      MakeAll(n, job);
    }
  });
  auto generation = Submit("a");
  ASSERT_TRUE(Complains());
  Restart();
  ASSERT_TRUE(Ends(generation));
  EXPECT_EQ(generation->completed().attempts(), 2);
}

TEST_F(DispatcherTest, GivesUpAtTheThirdLoss) {
  Serve([](int, ScriptedJob& job) { job.End(Lost()); });
  auto generation = Submit("a");
  auto waiting = Submit("b");
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(Complains());
    if (i < 2) {
      Restart();
    }
  }
  ASSERT_TRUE(Ends(generation));
  EXPECT_EQ(generation->standing().status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ReasonOf(generation->standing().status), "POISON_REQUEST");
  EXPECT_EQ(waiting->standing().attempt, 1) << "the queued lose no attempt";
  auto again = registry_.Claim({"", "c"}, "fingerprint", [](std::optional<uint64_t>) {
    return MakeGeneration(TestSpec("c"));
  });
  EXPECT_EQ(ReasonOf(again.status()), "POISON_REQUEST");
}

TEST_F(DispatcherTest, EndsWhatNoRerunCanHeal) {
  const absl::Status nan = TestError(absl::StatusCode::kInternal, reason::kNonFiniteOutput);
  Serve([&](int, ScriptedJob& job) { job.End(nan); });
  auto generation = Submit("a");
  ASSERT_TRUE(Ends(generation));
  EXPECT_EQ(generation->standing().status, nan);
  EXPECT_TRUE(Complains()) << "the worker ends itself after INTERNAL";
  EXPECT_EQ(worker_->calls(), 1);
}

TEST_F(DispatcherTest, KeepsAWorkerThatRefusesARequest) {
  const absl::Status refused =
      TestError(absl::StatusCode::kInvalidArgument, reason::kInvalidRequest);
  Serve([&](int n, ScriptedJob& job) {
    if (n == 0) {
      job.End(refused);
    } else {
      MakeAll(n, job);
    }
  });
  auto generation = Submit("a");
  ASSERT_TRUE(Ends(generation));
  EXPECT_EQ(generation->standing().status, refused);
  auto next = Submit("b");
  ASSERT_TRUE(Ends(next));
  EXPECT_TRUE(next->standing().status.ok());
  EXPECT_FALSE(group_.complaint().has_value());
}

TEST_F(DispatcherTest, WaitsForABusyWorkerWithoutCountingALoss) {
  Serve([](int n, ScriptedJob& job) {
    if (n < 3) {
      job.End(TestError(absl::StatusCode::kResourceExhausted, reason::kWorkerBusy));
    } else {
      MakeAll(n, job);
    }
  });
  auto generation = Submit("a");
  ASSERT_TRUE(Ends(generation));
  EXPECT_EQ(generation->completed().attempts(), 1);
  EXPECT_EQ(worker_->calls(), 4);
}

TEST_F(DispatcherTest, CancelsTheCallOfAGenerationThatEnds) {
  Serve([](int n, ScriptedJob& job) {
    if (n == 0) {
      job.Step(0, 1);
    } else {
      MakeAll(n, job);
    }
  });
  auto generation = Submit("a");
  ASSERT_TRUE(Eventually([&] { return generation->standing().step == 1; }));
  generation->End(TestError(absl::StatusCode::kCancelled, reason::kCancelledByRequest));
  EXPECT_TRUE(worker_->job(0)->cancelled());
  auto next = Submit("b");
  ASSERT_TRUE(Ends(next));
  EXPECT_TRUE(next->standing().status.ok());
  EXPECT_FALSE(group_.complaint().has_value());
}

TEST_F(DispatcherTest, RefusesImagesThatAreNotWhatTheySay) {
  for (int fault = 0; fault < 4; ++fault) {
    std::atomic<int> runs = 0;
    Serve([&](int, ScriptedJob& job) {
      if (runs++ > 0) {
        MakeAll(0, job);
        return;
      }
      worker::v1::ExecuteResponse event;
      event.mutable_image_header()->set_total_bytes(fault == 0 ? uint64_t{1} << 40 : 5);
      event.mutable_image_header()->set_sha256("wrong");
      event.mutable_image_header()->set_image_index(fault == 1 ? 7 : 0);
      job.Send(event);
      event.mutable_image_chunk()->set_data(fault == 2 ? "too many bytes" : "12345");
      job.Send(event);
      event.mutable_image_done();
      job.Send(event);
      job.End(absl::OkStatus());
    });
    auto generation = Submit(absl::StrCat("a", fault));
    ASSERT_TRUE(Complains()) << fault;
    Restart();
    ASSERT_TRUE(Ends(generation)) << fault;
    EXPECT_EQ(generation->image(0)->data, "image");
    EXPECT_EQ(generation->completed().attempts(), 2);
  }
}

TEST_F(DispatcherTest, CountsACallWithoutImagesAsALoss) {
  Serve([](int n, ScriptedJob& job) {
    if (n == 0) {
      job.End(absl::OkStatus());
    } else {
      MakeAll(n, job);
    }
  });
  auto generation = Submit("a");
  ASSERT_TRUE(Complains());
  Restart();
  ASSERT_TRUE(Ends(generation));
  EXPECT_TRUE(generation->standing().status.ok());
}

TEST_F(DispatcherTest, StopsWhenItsWorkerIsLostUnderIt) {
  Serve([](int n, ScriptedJob& job) {
    if (n == 1) {
      MakeAll(n, job);
    }
  });
  auto generation = Submit("a");
  ASSERT_TRUE(Eventually([&] { return worker_->calls() == 1; }));
  group_.SetLost("no heartbeat");
  ASSERT_TRUE(Eventually([&] { return generation->standing().attempt == 2; }));
  group_.SetServing(worker_, ScriptedWorker::Info());
  ASSERT_TRUE(Ends(generation));
  EXPECT_TRUE(generation->standing().status.ok());
}

TEST_F(DispatcherTest, AsksForImagesWithMetadataOneByOne) {
  Serve(MakeAll);
  GenerationSpec spec = TestSpec("a", 2);
  spec.embed_metadata = true;
  auto generation = MakeGeneration(std::move(spec));
  ASSERT_TRUE(queue_.Push(generation).ok());
  ASSERT_TRUE(Ends(generation));
  ASSERT_EQ(worker_->calls(), 2);
  EXPECT_THAT(worker_->job(1)->request.image_indices(), ElementsAre(1));
  EXPECT_EQ(worker_->job(1)->request.metadata().at("seed"), "8");
  EXPECT_EQ(worker_->job(1)->request.metadata().at("prompt"), "a red circle");
}

TEST_F(DispatcherTest, SendsWhereImagesComeFromAndNoOtherMetadataUnasked) {
  Serve(MakeAll);
  ASSERT_TRUE(Ends(Submit("a")));
  const auto& metadata = worker_->job(0)->request.metadata();
  ASSERT_EQ(metadata.size(), 1U);
  EXPECT_EQ(metadata.at("DigitalSourceType"),
            "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia");
}

TEST(JobTest, TheGroupMayLeaveTheProvenanceMarkOut) {
  const auto generation = MakeGeneration(TestSpec("a"));
  EXPECT_TRUE(MakeExecuteRequest(*generation, /*provenance_mark=*/false).metadata().empty());
}

// "a" leaves the ranks at once and its tail goes on for ever; the rest is made as asked.
void LeaveTheFirst(int n, ScriptedJob& job) {
  if (n == 0) {
    job.RanksFree();
  } else {
    MakeAll(n, job);
  }
}

TEST_F(DispatcherTest, TheNextRunsWhileTheLastImageOfTheOneBeforeIsSent) {
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
  EXPECT_EQ(group_.tail(), first);
  EXPECT_EQ(group_.running(), second);
  EXPECT_THAT(group_.AtWork(), ElementsAre(first, second));
  EXPECT_EQ(first->standing().state, v1::STATE_RUNNING);
  EXPECT_EQ(group_.failures(), 1);
  worker_->job(0)->Images();
  worker_->job(0)->End(absl::OkStatus());
  ASSERT_TRUE(Ends(first));
  EXPECT_EQ(first->standing().state, v1::STATE_SUCCEEDED);
  EXPECT_TRUE(Eventually([&] { return group_.failures() == 0; })) << "a job was completed";
  EXPECT_TRUE(Eventually([&] { return group_.tail() == nullptr; }));
  EXPECT_EQ(group_.running(), second);
  worker_->job(1)->Images();
  worker_->job(1)->End(absl::OkStatus());
  ASSERT_TRUE(Ends(second));
  EXPECT_TRUE(Eventually([&] { return group_.AtWork().empty(); }));
}

TEST_F(DispatcherTest, ThereIsOneTailAtMost) {
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

TEST_F(DispatcherTest, ATailIsLostWithItsWorkerAndTheRunningOneToo) {
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

TEST_F(DispatcherTest, NoneIsPoisonedByWhatRunsBesideIt) {
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

TEST_F(DispatcherTest, ATailThatNoRerunCanHealEndsAlone) {
  const absl::Status refused =
      TestError(absl::StatusCode::kInvalidArgument, reason::kInvalidRequest);
  Serve(LeaveTheFirst);
  auto generation = Submit("a");
  ASSERT_TRUE(Eventually([&] { return group_.tail() != nullptr; }));
  worker_->job(0)->End(refused);
  ASSERT_TRUE(Ends(generation));
  EXPECT_EQ(generation->standing().status, refused);
  auto next = Submit("b");
  ASSERT_TRUE(Ends(next));
  EXPECT_TRUE(next->standing().status.ok());
  EXPECT_FALSE(group_.complaint().has_value());
}

TEST_F(DispatcherTest, CountsATailWithoutItsImageAsALoss) {
  Serve(LeaveTheFirst);
  auto generation = Submit("a", 2);
  ASSERT_TRUE(Eventually([&] { return group_.tail() != nullptr; }));
  worker_->job(0)->Image(0);
  worker_->job(0)->End(absl::OkStatus());
  ASSERT_TRUE(Complains());
  Restart();
  ASSERT_TRUE(Ends(generation));
  EXPECT_THAT(worker_->job(1)->request.image_indices(), ElementsAre(1));
}

TEST_F(DispatcherTest, ACancelledTailDisturbsNobody) {
  Serve([](int n, ScriptedJob& job) {
    if (n == 0) {
      job.RanksFree();
    }
  });
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

TEST_F(DispatcherTest, IsDrainedWhenItsTailHasEnded) {
  Serve(LeaveTheFirst);
  auto generation = Submit("a");
  ASSERT_TRUE(Eventually([&] { return group_.tail() != nullptr; }));
  group_.Retire();
  queue_.Interrupt();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(group_.drained());
  worker_->job(0)->Images();
  worker_->job(0)->End(absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return group_.drained(); }));
  EXPECT_EQ(generation->standing().state, v1::STATE_SUCCEEDED);
}

TEST_F(DispatcherTest, ALostTailIsRunAgainBeforeItIsDrained) {
  Serve(LeaveTheFirst);
  auto generation = Submit("a");
  ASSERT_TRUE(Eventually([&] { return group_.tail() != nullptr; }));
  group_.Retire();
  queue_.Interrupt();
  worker_->job(0)->End(Lost());
  ASSERT_TRUE(Complains());
  Restart();
  ASSERT_TRUE(Ends(generation));
  EXPECT_TRUE(generation->standing().status.ok());
  EXPECT_TRUE(Eventually([&] { return group_.drained(); }));
}

TEST_F(DispatcherTest, ASilentTailIsToldThoughTheRunningOneTalks) {
  Serve([](int n, ScriptedJob& job) {
    if (n == 0) {
      job.RanksFree();
    }
  });
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

TEST_F(DispatcherTest, EndsItsJobAndItsTailWhenTheServerStops) {
  Serve([](int n, ScriptedJob& job) {
    if (n == 0) {
      job.RanksFree();
    }
  });
  auto first = Submit("a");
  auto second = Submit("b");
  ASSERT_TRUE(Eventually([&] { return worker_->calls() == 2; }));
  group_.Stop();
  for (const auto& generation : {first, second}) {
    ASSERT_TRUE(Ends(generation));
    EXPECT_EQ(ReasonOf(generation->standing().status), "DRAINING");
  }
}

TEST_F(DispatcherTest, EndsItsJobWhenTheServerStops) {
  Serve([](int, ScriptedJob&) {});
  auto generation = Submit("a");
  ASSERT_TRUE(Eventually([&] { return worker_->calls() == 1; }));
  group_.Stop();
  ASSERT_TRUE(Ends(generation));
  EXPECT_EQ(ReasonOf(generation->standing().status), "DRAINING");
  EXPECT_TRUE(RetryDelayOf(generation->standing().status).has_value());
}

}  // namespace
}  // namespace patchflow
