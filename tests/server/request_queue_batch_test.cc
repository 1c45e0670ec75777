// What the queue gives at once, for one pass.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "server/request_queue.h"
#include "tests/server/generations.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class RequestQueueBatchTest : public ::testing::Test {
 protected:
  using Change = std::function<void(GenerationSpec&)>;

  std::shared_ptr<Generation> Push(
      const std::string& id, int count = 1, const Change& change = [](GenerationSpec&) {}) {
    GenerationSpec spec = TestSpec(id, count);
    spec.accepted.mutable_effective()->set_scheduler("ddim");
    change(spec);
    auto generation = MakeGeneration(std::move(spec));
    EXPECT_TRUE(queue_.Push(generation).ok());
    return generation;
  }
  static Change Of(const std::string& client, absl::Duration gpu_time) {
    return [=](GenerationSpec& spec) {
      spec.owner.client = client;
      *spec.accepted.mutable_cost()->mutable_gpu_time() = ToProto(gpu_time);
    };
  }
  static std::vector<std::string> Ids(const std::vector<std::shared_ptr<Generation>>& batch) {
    std::vector<std::string> ids;
    for (const auto& generation : batch) {
      ids.push_back(generation->spec().request_id);
    }
    return ids;
  }
  std::vector<std::string> Pop(int rows = 4) {
    return Ids(queue_.PopBatch("plan-1", rows, absl::ZeroDuration()));
  }

  RequestQueue queue_{{.requests = 20}};
};

TEST_F(RequestQueueBatchTest, GivesThoseOfOneShapeInOrder) {
  Push("low", 1, [](GenerationSpec& spec) { spec.priority = v1::PRIORITY_LOW; });
  Push("first");
  Push("second");
  Push("high", 1, [](GenerationSpec& spec) { spec.priority = v1::PRIORITY_HIGH; });
  EXPECT_THAT(Ids(queue_.PeekBatch("plan-1", 4)), ElementsAre("high", "first", "second", "low"));
  EXPECT_EQ(queue_.size(), 4U) << "looking takes nothing";
  EXPECT_THAT(Pop(3), ElementsAre("high", "first", "second"));
  EXPECT_THAT(Pop(3), ElementsAre("low"));
  EXPECT_THAT(Pop(3), IsEmpty());
}

TEST_F(RequestQueueBatchTest, LeavesWhatDiffersInAnythingOfAPass) {
  const auto with = [](const std::function<void(v1::EffectiveParams&)>& set) {
    return [set](GenerationSpec& spec) { set(*spec.accepted.mutable_effective()); };
  };
  Push("first");
  Push("width", 1, with([](auto& params) { params.set_width(128); }));
  Push("height", 1, with([](auto& params) { params.set_height(128); }));
  Push("steps", 1, with([](auto& params) { params.set_steps(5); }));
  Push("guidance", 1, with([](auto& params) { params.set_guidance_scale(1); }));
  Push("scheduler", 1, with([](auto& params) { params.set_scheduler("euler"); }));
  Push("plan", 1, [](GenerationSpec& spec) { spec.accepted.set_plan_digest("plan-2"); });
  Push("other", 1, [](GenerationSpec& spec) {
    spec.prompt = "another text";
    spec.negative_prompt = "blurred";
    spec.preview_every_steps = 1;
    auto& params = *spec.accepted.mutable_effective();
    params.set_seed(99);
    params.set_format(v1::IMAGE_FORMAT_WEBP);
    params.set_quality(50);
  });
  EXPECT_THAT(Pop(16), ElementsAre("first", "other"));
  EXPECT_THAT(Pop(16), ElementsAre("width"));
}

TEST_F(RequestQueueBatchTest, FillsRowsThatWouldBeEmptyAndNoOthers) {
  Push("three", 3);
  Push("two", 2);
  Push("one");
  Push("more");
  EXPECT_THAT(Pop(), ElementsAre("three", "one")) << "two do not fit beside three";
  EXPECT_THAT(Pop(), ElementsAre("two", "more"));
}

TEST_F(RequestQueueBatchTest, CountsImagesThatAreMissingAlone) {
  AddImage(*Push("half", 4), 1);
  Push("one");
  EXPECT_THAT(Pop(), ElementsAre("half", "one"));
}

TEST_F(RequestQueueBatchTest, TheFirstIsNeverKeptBack) {
  Push("other", 1, [](GenerationSpec& spec) { spec.accepted.mutable_effective()->set_steps(9); });
  Push("a");
  Push("b");
  EXPECT_THAT(Pop(), ElementsAre("other")) << "though two of another shape wait";
}

TEST_F(RequestQueueBatchTest, MoreImagesThanRowsComeAlone) {
  Push("five", 5);
  Push("one");
  EXPECT_THAT(Pop(), ElementsAre("five"));
  EXPECT_THAT(Pop(1), ElementsAre("one"));
}

TEST_F(RequestQueueBatchTest, ASuspectComesAloneAndBesideNobody) {
  const auto suspect = MakeGeneration(TestSpec("suspect"));
  suspect->Start();
  suspect->Requeue();
  const auto change = [](GenerationSpec& spec) {
    spec.accepted.mutable_effective()->clear_scheduler();
  };
  Push("a", 1, change);
  queue_.PushAgain(suspect);
  EXPECT_THAT(Pop(), ElementsAre("suspect"));
  const auto high = [&](GenerationSpec& spec) {
    change(spec);
    spec.priority = v1::PRIORITY_HIGH;
  };
  const auto later = Push("later", 1, change);
  later->Start();
  later->Requeue();
  Push("high", 1, high);
  EXPECT_THAT(Pop(), ElementsAre("high", "a"));
}

TEST_F(RequestQueueBatchTest, ChargesEachItsPartOfThePass) {
  Push("a1", 1, Of("a", absl::Seconds(8)));
  Push("b1", 3, Of("b", absl::Seconds(8)));
  EXPECT_THAT(Pop(), ElementsAre("a1", "b1"));
  // "a" had 2 s of it and "b" 6 s: two of 3 s are what "a" may have before it is "b"'s turn.
  Push("b2", 4, Of("b", absl::Seconds(3)));
  for (const char* id : {"a2", "a3", "a4"}) {
    Push(id, 4, Of("a", absl::Seconds(3)));
  }
  EXPECT_THAT(Pop(), ElementsAre("a2"));
  EXPECT_THAT(Pop(), ElementsAre("a3"));
  EXPECT_THAT(Pop(), ElementsAre("b2"));
  EXPECT_THAT(Pop(), ElementsAre("a4"));
}

TEST(RequestQueueWorkTest, WhatFindsRoomInAPassAddsNoWork) {
  RequestQueue queue({.requests = 20, .work = absl::Seconds(25)});
  const auto push = [&](const std::string& id) {
    GenerationSpec spec = TestSpec(id);
    spec.estimate = Estimate{absl::Seconds(10), absl::ZeroDuration(), 5, 4};
    return queue.Push(MakeGeneration(std::move(spec)));
  };
  for (const char* id : {"1", "2", "3", "4", "5", "6", "7", "8"}) {
    ASSERT_TRUE(push(id).ok()) << id;
  }
  EXPECT_EQ(queue.Work(), absl::Seconds(20));
  const absl::Status refused = push("9");
  EXPECT_EQ(ReasonOf(refused), "QUEUE_FULL");
  EXPECT_EQ(MetadataOf(refused, "queued_work_ms"), "20000");
  EXPECT_EQ(queue.PopBatch("plan-1", 4, absl::ZeroDuration()).size(), 4U);
  EXPECT_EQ(queue.Work(), absl::Seconds(10));
  EXPECT_TRUE(push("9").ok());
  EXPECT_EQ(queue.Take().size(), 5U);
  EXPECT_EQ(queue.Work(), absl::ZeroDuration());
}

}  // namespace
}  // namespace patchflow
