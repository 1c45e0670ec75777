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
  return config;
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
  mask_BL.select(1, kTextTokens - 1).zero_();  // Padding.
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

Tensor RunLayout(const Layout& layout, const TransformerConfig& config, const TestModel& model,
                 const TestJob& job, const RunOptions& options) {
  const absl::Status fits = CheckLayout(layout, layout.ranks(), config);
  EXPECT_TRUE(fits.ok() && CheckTokens(layout, job.grid).ok()) << fits;
  std::vector<Tensor> results(layout.ranks());
  RunRanks(
      layout.ranks(),
      [&](const Rank& rank) {
        const GroupRank member(layout, rank.world, config);
        const EnginePorts ports = member.ports();
        const auto transformer = model(ports, rank.device);
        const auto denoiser = ports.make_denoiser(*transformer);
        TestMonitor monitor;
        const TestJob here = job.To(rank.device);
        results[rank.index()] = denoiser->Denoise(here.job(), monitor).cpu();
      },
      options);
  for (const Tensor& result : results) {
    EXPECT_TRUE(at::equal(result, results[0])) << "ranks differ, layout " << ToString(layout);
  }
  return results[0];
}

double RelativeError(const Tensor& actual, const Tensor& expected) {
  if (!actual.defined() || actual.sizes() != expected.sizes() ||
      !at::isfinite(actual).all().item<bool>()) {
    return 1;
  }
  return (at::sub(actual, expected).abs().max() / expected.abs().max()).item<double>();
}

}  // namespace patchflow
