// The text of the next generation is told to the worker.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/server/dispatcher_fixture.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using DispatcherHintTest = DispatcherTest;

TEST_F(DispatcherHintTest, TellsTheTextsOfWhatRunsNextOnceTheRanksDenoise) {
  Serve([](int, ScriptedJob& job) { job.Step(0, 0, worker::v1::JOB_PHASE_TEXT); });
  auto running = Submit("a");
  ASSERT_TRUE(Eventually([&] { return worker_->calls() == 1; }));
  GenerationSpec spec = TestSpec("low");
  spec.priority = v1::PRIORITY_LOW;
  spec.prompt = "later";
  ASSERT_TRUE(queue_.Push(MakeGeneration(spec)).ok());
  spec = TestSpec("next");
  spec.prompt = "a star";
  spec.negative_prompt = "blurred";
  ASSERT_TRUE(queue_.Push(MakeGeneration(spec)).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_TRUE(worker_->hints().empty()) << "its own text is encoded";
  for (int step = 0; step < 4; ++step) {
    worker_->job(0)->Step(0, step);
  }
  ASSERT_TRUE(Eventually([&] { return running->standing().step == 3; }));
  ASSERT_EQ(worker_->hints().size(), 1U);
  EXPECT_THAT(worker_->hints()[0].texts(), ElementsAre("a star", "blurred"));
  EXPECT_EQ(queue_.size(), 2U) << "a hint takes nothing";
}

TEST_F(DispatcherHintTest, TellsNoNegativePromptThatIsNotUsedAndAlsoWhatComesLate) {
  Serve([](int, ScriptedJob& job) { job.Step(0, 0); });
  auto running = Submit("a", 1);
  ASSERT_TRUE(Eventually([&] { return worker_->calls() == 1; }));
  GenerationSpec spec = TestSpec("next");
  spec.accepted.mutable_effective()->set_guidance_scale(1);
  ASSERT_TRUE(queue_.Push(MakeGeneration(spec)).ok());
  worker_->job(0)->Step(0, 1);
  worker_->job(0)->Step(0, 2);
  ASSERT_TRUE(Eventually([&] { return running->standing().step == 2; }));
  ASSERT_EQ(worker_->hints().size(), 1U);
  EXPECT_THAT(worker_->hints()[0].texts(), ElementsAre("a red circle"));
}

TEST_F(DispatcherHintTest, TellsNothingBesideADenoisingThatIsShorterThanTheHintsWay) {
  const v1::EffectiveParams params = TestSpec("a").params();
  costs_.Record("plan-1", params, absl::Milliseconds(5), absl::Milliseconds(1));
  Serve([](int, ScriptedJob& job) { job.Step(0, 0); });
  auto running = Submit("a");
  ASSERT_TRUE(Eventually([&] { return worker_->calls() == 1; }));
  Submit("b");
  worker_->job(0)->Step(0, 1);
  worker_->job(0)->Step(0, 2);
  ASSERT_TRUE(Eventually([&] { return running->standing().step == 2; }));
  EXPECT_TRUE(worker_->hints().empty());
}

}  // namespace
}  // namespace patchflow
