#include "server/queued_work.h"

#include <gtest/gtest.h>

#include <functional>

#include "tests/server/generations.h"

namespace patchflow {
namespace {

constexpr int kRows = 4;

// A pass takes `pass`, however many images it has.
std::shared_ptr<Generation> Waiting(
    int images, absl::Duration pass, int rows = kRows,
    const std::function<void(GenerationSpec&)>& change = [](GenerationSpec&) {}) {
  GenerationSpec spec = TestSpec("id", images);
  spec.estimate = Estimate{pass, absl::ZeroDuration(), 5, rows};
  change(spec);
  return MakeGeneration(std::move(spec));
}

TEST(QueuedWorkTest, SingleImagesOfAShapeFillPasses) {
  QueuedWork work;
  for (const int seconds : {10, 10, 10, 10, 20, 20}) {
    const auto next = Waiting(1, absl::Seconds(10));
    EXPECT_EQ(work.With(*next), absl::Seconds(seconds));
    work.Add(*next);
    EXPECT_EQ(work.total(), absl::Seconds(seconds));
  }
}

TEST(QueuedWorkTest, APassTakesWhatTheImagesTakeOnAverage) {
  QueuedWork work;
  for (const int seconds : {8, 12, 8, 12, 10}) {
    work.Add(*Waiting(1, absl::Seconds(seconds)));
  }
  EXPECT_EQ(work.total(), 2 * absl::Seconds(10));
}

TEST(QueuedWorkTest, ShapesAndPlansShareNoPass) {
  QueuedWork work;
  work.Add(*Waiting(1, absl::Seconds(10)));
  work.Add(*Waiting(1, absl::Seconds(10), kRows,
                    [](GenerationSpec& spec) { spec.accepted.mutable_effective()->set_steps(9); }));
  work.Add(*Waiting(1, absl::Seconds(10), kRows,
                    [](GenerationSpec& spec) { spec.accepted.set_plan_digest("another"); }));
  EXPECT_EQ(work.total(), absl::Seconds(30));
}

TEST(QueuedWorkTest, SeveralImagesCountAsIfTheyRanAlone) {
  QueuedWork work;
  work.Add(*Waiting(3, absl::Seconds(10)));
  work.Add(*Waiting(3, absl::Seconds(10)));
  EXPECT_EQ(work.total(), absl::Seconds(20)) << "which they do: six fit into no pass";
  work.Add(*Waiting(5, absl::Seconds(10)));
  EXPECT_EQ(work.total(), absl::Seconds(40));
  work.Add(*Waiting(1, absl::Seconds(10)));
  EXPECT_EQ(work.total(), absl::Seconds(50));
}

TEST(QueuedWorkTest, SuspectsCountAsIfTheyRanAlone) {
  QueuedWork work;
  work.Add(*Waiting(1, absl::Seconds(10)));
  const auto suspect = Waiting(1, absl::Seconds(10));
  ASSERT_TRUE(suspect->Start());
  suspect->Requeue();
  EXPECT_EQ(work.With(*suspect), absl::Seconds(20));
  work.Add(*suspect);
  EXPECT_EQ(work.total(), absl::Seconds(20));
  work.Remove(*suspect);
  EXPECT_EQ(work.total(), absl::Seconds(10));
}

TEST(QueuedWorkTest, IsThePlainSumWhereAPassHasOneImage) {
  QueuedWork work;
  for (const int seconds : {10, 11, 12}) {
    work.Add(*Waiting(1, absl::Seconds(seconds), 1));
  }
  EXPECT_EQ(work.total(), absl::Seconds(33));
}

TEST(QueuedWorkTest, WhatIsUnknownCountsNothing) {
  QueuedWork work;
  const auto unknown = MakeGeneration(TestSpec("unknown"));
  work.Add(*unknown);
  EXPECT_EQ(work.With(*unknown), absl::ZeroDuration());
  EXPECT_EQ(work.total(), absl::ZeroDuration());
}

TEST(QueuedWorkTest, NothingStaysOfWhatWasRemoved) {
  QueuedWork work;
  std::vector<std::shared_ptr<Generation>> all;
  for (int i = 0; i < 12; ++i) {
    all.push_back(Waiting(1 + i % 3 / 2, absl::Milliseconds(333 + i), i % 4 == 0 ? 1 : kRows));
    work.Add(*all.back());
  }
  for (const auto& generation : all) {
    const absl::Duration before = work.total();
    work.Remove(*generation);
    EXPECT_EQ(work.With(*generation), before);
  }
  EXPECT_EQ(work.total(), absl::ZeroDuration());
}

}  // namespace
}  // namespace patchflow
