#include "server/dispatcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "server/job.h"
#include "tests/server/dispatcher_fixture.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;

TEST_F(DispatcherTest, HandsOverImagesAndLearnsTheirCost) {
  Serve(MakeAll);
  auto generation = Submit("a", 2);
  ASSERT_TRUE(Ends(generation));
  EXPECT_EQ(generation->standing().state, v1::STATE_SUCCEEDED);
  EXPECT_EQ(generation->image(1)->data, "image");
  EXPECT_TRUE(costs_.Expect("plan-1", generation->spec().params()).has_value());
  EXPECT_TRUE(Eventually([&] { return group_.running().empty(); }));
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

TEST_F(DispatcherTest, RemembersASizeThatRanOutOfMemoryUntilOneIsMade) {
  std::atomic<bool> fits = false;
  Serve([&](int n, ScriptedJob& job) {
    if (fits) {
      MakeAll(n, job);
    } else {
      job.End(TestError(absl::StatusCode::kResourceExhausted, reason::kGpuOutOfMemory));
    }
  });
  const auto params = TestSpec("a").params();
  const auto allows = [&] {
    return costs_.memory().Check("plan-1", params.width(), params.height()).ok();
  };
  for (const char* id : {"a", "b"}) {
    EXPECT_TRUE(allows()) << id;
    ASSERT_TRUE(Ends(Submit(id)));
    Restart();
  }
  EXPECT_FALSE(allows());
  fits = true;
  ASSERT_TRUE(Ends(Submit("c")));
  EXPECT_TRUE(Eventually(allows));
}

TEST_F(DispatcherTest, AWorkerThatStaysBusyIsGivenUpAndNotWhoWaitsForIt) {
  max_busy_ = absl::Milliseconds(30);
  std::atomic<bool> busy = true;
  Serve([&](int n, ScriptedJob& job) {
    if (busy) {
      job.End(TestError(absl::StatusCode::kResourceExhausted, reason::kWorkerBusy));
    } else {
      MakeAll(n, job);
    }
  });
  auto generation = Submit("a");
  for (int life = 0; life < 5; ++life) {
    ASSERT_TRUE(Eventually([&] { return group_.complaint().has_value(); })) << life;
    EXPECT_THAT(*group_.complaint(), ::testing::HasSubstr("took no job for too long"));
    Restart();
  }
  EXPECT_FALSE(generation->ended());
  busy = false;
  ASSERT_TRUE(Ends(generation));
  EXPECT_EQ(generation->completed().attempts(), 1);
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

TEST_F(DispatcherTest, AsksForImagesWithMetadataTogether) {
  Serve(MakeAll);
  GenerationSpec spec = TestSpec("a", 2);
  spec.embed_metadata = true;
  auto generation = MakeGeneration(std::move(spec));
  ASSERT_TRUE(queue_.Push(generation).ok());
  ASSERT_TRUE(Ends(generation));
  ASSERT_EQ(worker_->calls(), 1);
  const auto& request = worker_->job(0)->request;
  EXPECT_THAT(request.image_indices(), ElementsAre(0, 1));
  ASSERT_EQ(request.file_metadata_size(), 2);
  for (const int index : {0, 1}) {
    const auto& metadata = request.file_metadata(index).entries();
    EXPECT_EQ(metadata.at("seed"), absl::StrCat(7 + index));
    EXPECT_EQ(metadata.at("prompt"), "a red circle");
    EXPECT_EQ(metadata.count("DigitalSourceType"), 1U);
  }
}

TEST_F(DispatcherTest, SendsWhereImagesComeFromAndNoOtherMetadataUnasked) {
  Serve(MakeAll);
  ASSERT_TRUE(Ends(Submit("a")));
  ASSERT_EQ(worker_->job(0)->request.file_metadata_size(), 1);
  const auto& metadata = worker_->job(0)->request.file_metadata(0).entries();
  ASSERT_EQ(metadata.size(), 1U);
  EXPECT_EQ(metadata.at("DigitalSourceType"),
            "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia");
}

TEST(JobTest, AsksForTheMarkAndNamesTheSoftwareThatWereAccepted) {
  GenerationSpec spec = TestSpec("a");
  spec.provenance_mark = false;
  EXPECT_TRUE(MakeExecuteRequest(*MakeGeneration(spec)).file_metadata().empty());
  spec.embed_metadata = true;
  spec.software = "patchflow of yesterday";
  const auto request = MakeExecuteRequest(*MakeGeneration(spec));
  ASSERT_EQ(request.file_metadata_size(), 1);
  const auto& metadata = request.file_metadata(0).entries();
  EXPECT_EQ(metadata.at("software"), "patchflow of yesterday");
  EXPECT_EQ(metadata.count("DigitalSourceType"), 0U);
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

TEST_F(DispatcherTest, EndsItsJobWhenTheTimeOfReplacedWeightsIsOver) {
  Serve([](int, ScriptedJob&) {});
  auto generation = Submit("a");
  ASSERT_TRUE(Eventually([&] { return worker_->calls() == 1; }));
  group_.Retire();
  group_.Stop();
  ASSERT_TRUE(Ends(generation));
  EXPECT_EQ(ReasonOf(generation->standing().status), "PLAN_CHANGED");
}

}  // namespace
}  // namespace patchflow
