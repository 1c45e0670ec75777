#include "engine/denoiser.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/engine/bundled_transformer.h"

namespace patchflow {
namespace {

using testing::ElementsAre;

class DenoiserTest : public testing::Test {
 private:
  c10::InferenceMode inference_;
};

class SerialDenoiserRun : public DenoiserTest, public testing::WithParamInterface<GoldenRun> {};

TEST_P(SerialDenoiserRun, MakesTheLatentsOfDiffusers) {
  const auto transformer = LoadBundledTransformer();
  const auto denoiser = MakeSerialDenoiser(*transformer);
  const GoldenRequest request(GetParam());
  CountingMonitor monitor;
  const Tensor latents = denoiser->Denoise(request.job, monitor);
  EXPECT_LT(RelativeDifference(latents, request.latents_NSC), 2e-5);
  std::vector<int> expected;
  for (int step = 0; step <= GetParam().steps; ++step) {
    expected.push_back(step);
  }
  EXPECT_EQ(monitor.asked(), expected);
}

INSTANTIATE_TEST_SUITE_P(Bundled, SerialDenoiserRun, testing::ValuesIn(GoldenRuns()),
                         [](const auto& run) { return run.param.name; });

TEST_F(DenoiserTest, RequestsLeaveNothingBehind) {
  const auto transformer = LoadBundledTransformer();
  const auto denoiser = MakeSerialDenoiser(*transformer);
  const GoldenRequest first(GoldenRuns()[0]);
  const GoldenRequest other(GoldenRuns()[1]);
  CountingMonitor monitor;
  const Tensor before = denoiser->Denoise(first.job, monitor);
  denoiser->Denoise(other.job, monitor);
  EXPECT_TRUE(at::equal(denoiser->Denoise(first.job, monitor), before));
}

TEST_F(DenoiserTest, StopsAtTheStepThatTheMonitorRefuses) {
  const auto transformer = LoadBundledTransformer();
  const auto denoiser = MakeSerialDenoiser(*transformer);
  const GoldenRequest request(GoldenRuns()[0]);
  CountingMonitor at_once(0);
  EXPECT_THROW(denoiser->Denoise(request.job, at_once), Cancelled);
  EXPECT_THAT(at_once.asked(), ElementsAre(0));
  CountingMonitor at_two(2);
  EXPECT_THROW(denoiser->Denoise(request.job, at_two), Cancelled);
  EXPECT_THAT(at_two.asked(), ElementsAre(0, 1, 2));
  CountingMonitor at_the_end(4);
  EXPECT_THROW(denoiser->Denoise(request.job, at_the_end), Cancelled);
  CountingMonitor never;
  EXPECT_LT(RelativeDifference(denoiser->Denoise(request.job, never), request.latents_NSC), 2e-5);
}

// Attention within the span only, so that a span is a smaller image of its own.
TEST_F(DenoiserTest, ASpanIsDenoisedInTheOrderOfItsConditioning) {
  const auto transformer = LoadBundledTransformer();
  const GoldenRequest request(GoldenRuns()[1]);
  const int64_t tokens = request.job.grid.size();
  const Tensor order = at::arange(tokens).flip(0);
  LocalAttention attention;
  LocalSum sum;
  LocalGuidance guidance(1);
  const auto denoise = [&](TokenSpan span, const Tensor& token_order) {
    const auto conditioning = transformer->Prepare(request.job.prompts, request.job.grid,
                                                   request.sampler.timesteps(), token_order);
    DenoiseJob job = request.job;
    if (token_order.defined()) {
      job.noise_NSC = job.noise_NSC.index_select(1, token_order);
    }
    std::vector<int> begun;
    CountingMonitor monitor;
    Tensor x = DenoiseSpan(job,
                           {.transformer = *transformer,
                            .conditioning = *conditioning,
                            .attention = attention,
                            .tensor_axis = sum,
                            .guidance = guidance,
                            .span = span,
                            .begin_step = [&](int step) { begun.push_back(step); }},
                           monitor);
    EXPECT_THAT(begun, ElementsAre(0, 1, 2));
    return x;
  };
  const Tensor last_tokens = denoise({tokens - 40, tokens}, {});
  ASSERT_EQ(last_tokens.size(1), 40);
  const Tensor same_tokens = denoise({0, 40}, order).flip(1);
  EXPECT_LT(RelativeDifference(same_tokens, last_tokens), 1e-5);
  EXPECT_GT(RelativeDifference(denoise({0, 40}, {}), last_tokens), 1e-2);
}

}  // namespace
}  // namespace patchflow
