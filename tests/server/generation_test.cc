#include "server/generation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/generations.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(GenerationTest, EndsWithItsLastImage) {
  int ends = 0;
  auto generation = MakeGeneration(TestSpec("a", 2), [&](Generation&) { ++ends; });
  ASSERT_TRUE(generation->Start());
  AddImage(*generation, 0);
  EXPECT_FALSE(generation->ended());
  EXPECT_THAT(generation->MissingImages(), ElementsAre(1));
  AddImage(*generation, 1);
  EXPECT_EQ(generation->standing().state, v1::STATE_SUCCEEDED);
  EXPECT_THAT(generation->MissingImages(), IsEmpty());
  EXPECT_EQ(ends, 1);
  EXPECT_EQ(generation->completed().peak_gpu_memory_bytes(), 5U);
}

TEST(GenerationTest, EndsOnce) {
  int ends = 0;
  auto generation = MakeGeneration(TestSpec("a"), [&](Generation&) { ++ends; });
  generation->End(TestError(absl::StatusCode::kCancelled, reason::kCancelledByRequest));
  generation->End(TestError(absl::StatusCode::kInternal, reason::kInternal));
  EXPECT_EQ(generation->standing().state, v1::STATE_CANCELLED);
  EXPECT_EQ(ends, 1);
  EXPECT_FALSE(generation->Start());
  AddImage(*generation, 0);
  EXPECT_EQ(generation->image(0), nullptr);
}

TEST(GenerationTest, RunsItsEndHookBeforeItTellsSubscribers) {
  auto subscriber = std::make_shared<CountingSubscriber>();
  int changes_at_hook = -1;
  auto generation =
      MakeGeneration(TestSpec("a"), [&](Generation&) { changes_at_hook = subscriber->changes; });
  generation->Subscribe(subscriber);
  generation->End(absl::OkStatus());
  EXPECT_EQ(changes_at_hook, 0);
  EXPECT_EQ(subscriber->changes, 1);
}

TEST(GenerationTest, KeepsFinishedImagesAcrossAttempts) {
  auto generation = MakeGeneration(TestSpec("a", 3));
  generation->Start();
  generation->SetStep(1, 2);
  AddImage(*generation, 0);
  generation->Requeue();
  EXPECT_EQ(generation->standing().state, v1::STATE_QUEUED);
  EXPECT_EQ(generation->standing().attempt, 2);
  EXPECT_EQ(generation->standing().step, 0);
  EXPECT_THAT(generation->MissingImages(), ElementsAre(1, 2));
  EXPECT_EQ(generation->completed().attempts(), 2);
}

TEST(GenerationTest, StopsItsWorkWhenItEnds) {
  auto generation = MakeGeneration(TestSpec("a"));
  generation->Start();
  int stops = 0;
  generation->SetStopper([&] { ++stops; });
  generation->End(TestError(absl::StatusCode::kCancelled, reason::kCancelledByRequest));
  EXPECT_EQ(stops, 1);
  generation->SetStopper([&] { ++stops; });
  EXPECT_EQ(stops, 2);
}

TEST(GenerationTest, HasNothingToStopWhenAllImagesAreThere) {
  auto generation = MakeGeneration(TestSpec("a"));
  generation->Start();
  int stops = 0;
  generation->SetStopper([&] { ++stops; });
  AddImage(*generation, 0);
  EXPECT_TRUE(generation->ended());
  EXPECT_EQ(stops, 0);
}

TEST(GenerationTest, LivesAsLongAsAnySubscriber) {
  auto generation = MakeGeneration(TestSpec("a"));
  auto first = std::make_shared<CountingSubscriber>();
  auto second = std::make_shared<CountingSubscriber>();
  generation->Subscribe(first);
  generation->Subscribe(second);
  const auto gone = TestError(absl::StatusCode::kCancelled, reason::kClientCancelled);
  generation->Unsubscribe(first.get(), gone);
  EXPECT_FALSE(generation->ended());
  generation->Unsubscribe(second.get(), gone);
  EXPECT_EQ(ReasonOf(generation->standing().status), "CLIENT_CANCELLED");
}

TEST(GenerationTest, GoesOnWithoutSubscribersIfDetached) {
  auto generation = MakeGeneration(TestSpec("a"));
  auto subscriber = std::make_shared<CountingSubscriber>();
  generation->Subscribe(subscriber);
  generation->Keep();
  generation->Unsubscribe(subscriber.get(),
                          TestError(absl::StatusCode::kCancelled, reason::kClientCancelled));
  EXPECT_FALSE(generation->ended());
}

constexpr auto kPast = Clock::time_point::min();

TEST(GenerationTest, EndsWithTheLastOfItsTimes) {
  const auto late = TestError(absl::StatusCode::kDeadlineExceeded, reason::kDeadlineInQueue);
  auto generation = MakeGeneration(TestSpec("a"));
  auto first = std::make_shared<CountingSubscriber>();
  auto second = std::make_shared<CountingSubscriber>();
  const auto soon = Clock::now() + std::chrono::hours(1);
  generation->Subscribe(first, kPast);
  generation->Subscribe(second, soon);
  generation->EndUnlessHeld();
  EXPECT_FALSE(generation->ended()) << "the second has more time";
  EXPECT_EQ(generation->HeldUntil(second.get()), soon);
  generation->Unsubscribe(second.get(), late);
  EXPECT_EQ(generation->standing().status, late) << "the time of the first is over";
}

TEST(GenerationTest, IsKeptUntilTheTimeOfTheLastThatDetached) {
  auto generation = MakeGeneration(TestSpec("a"));
  auto subscriber = std::make_shared<CountingSubscriber>();
  generation->Subscribe(subscriber);
  generation->Keep(kPast);
  generation->EndUnlessHeld();
  EXPECT_FALSE(generation->ended()) << "someone is there who has all the time";
  generation->Keep(Clock::now() + std::chrono::hours(1));
  generation->Keep(kPast);
  generation->Unsubscribe(subscriber.get(), absl::CancelledError());
  EXPECT_FALSE(generation->ended()) << "the later of two";
  auto other = MakeGeneration(TestSpec("b"));
  other->Keep(kPast);
  other->EndUnlessHeld();
  EXPECT_EQ(ReasonOf(other->standing().status), "DEADLINE_IN_QUEUE");
}

TEST(GenerationTest, JoiningHoldsNoLongerThanOthersDo) {
  auto generation = MakeGeneration(TestSpec("a"));
  auto watcher = std::make_shared<CountingSubscriber>();
  const auto soon = Clock::now() + std::chrono::hours(1);
  generation->Keep(soon);
  EXPECT_TRUE(generation->Join(watcher));
  EXPECT_EQ(generation->HeldUntil(watcher.get()), soon);
}

TEST(GenerationTest, ListenersHoldNothing) {
  auto generation = MakeGeneration(TestSpec("a"));
  auto listener = std::make_shared<CountingSubscriber>();
  auto subscriber = std::make_shared<CountingSubscriber>();
  generation->Listen(listener);
  generation->Subscribe(subscriber);
  generation->Unsubscribe(subscriber.get(), absl::CancelledError());
  EXPECT_TRUE(generation->ended());
  EXPECT_EQ(listener->changes, 1);
}

TEST(GenerationTest, CallsWhatWaitsForItsEndOnce) {
  auto generation = MakeGeneration(TestSpec("a"));
  int calls = 0;
  generation->AtEnd([&] { ++calls; });
  generation->End(absl::OkStatus());
  EXPECT_EQ(calls, 1);
  generation->AtEnd([&] { ++calls; });
  EXPECT_EQ(calls, 2);
}

TEST(GenerationTest, OneThatWasRestoredIsNoSuspect) {
  auto generation = MakeGeneration(TestSpec("a", 2));
  generation->RestoreImages({nullptr, TestImage(1)}, 3);
  EXPECT_EQ(generation->standing().attempt, 3);
  EXPECT_FALSE(generation->suspect());
  generation->Start();
  generation->Requeue();
  EXPECT_EQ(generation->standing().attempt, 4);
  EXPECT_TRUE(generation->suspect());
}

TEST(GenerationTest, SaysWhereADeadlineHitIt) {
  auto generation = MakeGeneration(TestSpec("a", 1, 20));
  EXPECT_EQ(ReasonOf(generation->DeadlineError()), "DEADLINE_IN_QUEUE");
  generation->Start();
  generation->SetStep(0, 7);
  const absl::Status status = generation->DeadlineError();
  EXPECT_EQ(ReasonOf(status), "DEADLINE_RUNNING");
  EXPECT_EQ(MetadataOf(status, "step"), "7");
  EXPECT_EQ(MetadataOf(status, "total"), "20");
}

TEST(GenerationTest, SumsTheTimesOfItsImages) {
  auto generation = MakeGeneration(TestSpec("a", 2));
  generation->Start();
  AddImage(*generation, 0);
  AddImage(*generation, 1);
  const v1::Completed completed = generation->completed();
  ASSERT_EQ(completed.timings_size(), 6);
  EXPECT_EQ(completed.timings(0).stage(), "queue");
  EXPECT_EQ(completed.timings(2).stage(), "denoise");
  EXPECT_EQ(FromProto(completed.timings(2).duration()), absl::Milliseconds(20));
  EXPECT_EQ(completed.timings(5).stage(), "total");
}

TEST(GenerationTest, EstimatesWhatIsLeft) {
  GenerationSpec spec = TestSpec("a", 2, 10);
  spec.estimate = Estimate{absl::Seconds(1), absl::Seconds(2), 1};
  auto generation = MakeGeneration(std::move(spec));
  generation->Start();
  generation->SetStep(0, 4);
  const auto eta = [&] { return FromProto(generation->ProgressAt(generation->standing()).eta()); };
  EXPECT_EQ(eta(), absl::Seconds(21 + 21 - 8));
  generation->SetStep(0, 10);
  AddImage(*generation, 0);
  EXPECT_EQ(eta(), absl::Seconds(21));
}

TEST(GenerationTest, ItsOwnTimeIsItsPartOfEachRun) {
  auto generation = MakeGeneration(TestSpec("a"));
  const auto pause = [] { std::this_thread::sleep_for(std::chrono::milliseconds(5)); };
  ASSERT_TRUE(generation->Start(0.25));
  pause();
  generation->Requeue();
  const absl::Duration shared = generation->run_time();
  const absl::Duration own = generation->own_time();
  EXPECT_GE(shared, absl::Milliseconds(5));
  EXPECT_NEAR(absl::ToDoubleSeconds(own), absl::ToDoubleSeconds(shared) / 4, 1e-6);
  pause();
  EXPECT_EQ(generation->own_time(), own) << "it waits";
  ASSERT_TRUE(generation->Start());
  pause();
  AddImage(*generation, 0);
  EXPECT_NEAR(absl::ToDoubleSeconds(generation->own_time() - own),
              absl::ToDoubleSeconds(generation->run_time() - shared), 1e-6);
}

}  // namespace
}  // namespace patchflow
