#include "tests/parallel/run_layout.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <mutex>
#include <vector>

#include "parallel/group.h"

namespace patchflow {
namespace {

constexpr int64_t kTextTokens = 5;

SamplerConfig ConfigOf() {
  SamplerConfig config;
  config.class_name = "DPMSolverMultistepScheduler";
  config.beta_end = 0.004;
  return config;
}

// On the host; undefined if it was cancelled.
Tensor DenoiseHere(Denoiser& denoiser, const TestJob& job, int stop_at) {
  TestMonitor monitor(stop_at);
  try {
    return denoiser.Denoise(job.job(), monitor).cpu();
  } catch (const Cancelled&) {
    return {};
  }
}

bool AreEqual(const Tensor& a, const Tensor& b) {
  return a.defined() && b.defined() ? at::equal(a, b) : a.defined() == b.defined();
}

}  // namespace

TestJob TestJob::To(at::Device device) const {
  return {noise_NSC.to(device),
          grid,
          {prompts.text_BLD.to(device), prompts.mask_BL.to(device)},
          guidance_scale,
          sampler.To(device)};
}

TestJob MakeTestJob(const TransformerConfig& model, const JobOptions& options) {
  const auto generator = at::detail::createCPUGenerator(options.seed);
  const auto draw = [&generator](at::IntArrayRef sizes) {
    return at::randn(sizes, generator, at::TensorOptions(at::kFloat));
  };
  const int64_t rows = options.images * (options.guidance_scale == 1 ? 1 : 2);
  const Tensor mask_BL = at::ones({rows, kTextTokens}, at::kLong);
  for (int64_t row = 0; row < rows; ++row) {  // Padding, of branches and images unlike each other.
    mask_BL[row].narrow(0, kTextTokens - 1 - row % 3, 1 + row % 3).zero_();
  }
  return {draw({options.images, options.grid.size(), model.token_width()}),
          options.grid,
          {draw({rows, kTextTokens, model.caption_width}), mask_BL},
          options.guidance_scale,
          Sampler::Make(options.scheduler, ConfigOf(), options.steps).value()};
}

Tensor RunSerial(const TestModel& model, const TestJob& job) {
  Tensor result;
  RunRanks(1, [&](const Rank& rank) {
    const auto transformer = model({}, rank.device);
    TestMonitor monitor;
    result = MakeSerialDenoiser(*transformer, CudaGraphs::kNo)
                 ->Denoise(job.To(rank.device).job(), monitor)
                 .cpu();
  });
  return result;
}

std::vector<Tensor> RunRequests(const Layout& layout, const TransformerConfig& config,
                                const TestModel& model, const std::vector<TestRequest>& requests,
                                const RunOptions& options) {
  const absl::Status fits = CheckLayout(layout, layout.ranks(), config);
  EXPECT_TRUE(fits.ok()) << fits;
  std::vector<std::vector<Tensor>> of_ranks(layout.ranks());
  RunRanks(
      layout.ranks(),
      [&](const Rank& rank) {
        const GroupRank member(layout, rank.world, config);
        const EnginePorts ports = member.ports();
        const auto transformer = model(ports, rank.device);
        const auto denoiser = ports.make_denoiser(*transformer);
        for (const TestRequest& request : requests) {
          of_ranks[rank.index()].push_back(
              DenoiseHere(*denoiser, request.job.To(rank.device), request.stop_at));
        }
      },
      options);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_TRUE(CheckTokens(layout, requests[i].job.grid).ok());
    for (const auto& results : of_ranks) {
      EXPECT_TRUE(AreEqual(results[i], of_ranks[0][i]))
          << "ranks differ, layout " << ToString(layout) << ", request " << i;
    }
  }
  return of_ranks[0];
}

Tensor RunLayout(const Layout& layout, const TransformerConfig& config, const TestModel& model,
                 const TestJob& job, const RunOptions& options) {
  return RunRequests(layout, config, model, {{job}}, options)[0];
}

double RelativeError(const Tensor& actual, const Tensor& expected) {
  if (!actual.defined() || actual.sizes() != expected.sizes() ||
      !at::isfinite(actual).all().item<bool>()) {
    return 1;
  }
  return (at::sub(actual, expected).abs().max() / expected.abs().max()).item<double>();
}

}  // namespace patchflow
