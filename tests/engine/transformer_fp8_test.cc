// The bundled model with the products of its blocks in 8 bits, beside itself in bfloat16.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "engine/device.h"
#include "tests/engine/bundled_transformer.h"

namespace patchflow {
namespace {

const at::Device kGpu(at::kCUDA, 0);

class TransformerFp8Test : public testing::Test {
 protected:
  static std::unique_ptr<Transformer> Load(at::ScalarType dtype) {
    return LoadBundledTransformer({.device = kGpu, .dtype = dtype});
  }
  static Tensor Denoised(Denoiser& denoiser, const GoldenRun& run) {
    const GoldenRequest request(run, kGpu);
    CountingMonitor monitor;
    return denoiser.Denoise(request.job, monitor).cpu();
  }
  static double Difference(const Tensor& a, const Tensor& b) {
    return ((a - b).to(at::kFloat).norm() / b.to(at::kFloat).norm()).item<double>();
  }

  DeviceThread thread_{DeviceThread::MakeStream(kGpu)};
};

// One pass over the network, at the first step of a request.
class Pass {
 public:
  Pass(const Transformer& transformer, GoldenRequest& request)
      : transformer_(transformer),
        span_{0, request.job.grid.size()},
        conditioning_(transformer.Prepare(request.job.prompts, request.job.grid,
                                          request.sampler.timesteps(), {})) {}

  Tensor Embed(const Tensor& x) { return transformer_.Embed(x, Context()); }
  Tensor Blocks(BlockRange range, const Tensor& h) {
    return transformer_.RunBlocks(range, h.clone(), Context());
  }
  Tensor Project(const Tensor& h) { return transformer_.Project(h, Context()); }

 private:
  StepContext Context() { return {*conditioning_, step_, span_, attention_, sum_}; }

  const Transformer& transformer_;
  TokenSpan span_;
  std::unique_ptr<Conditioning> conditioning_;
  Tensor step_ = at::zeros({1}, at::TensorOptions(kGpu).dtype(at::kLong));
  LocalAttention attention_;
  LocalSum sum_;
};

TEST_F(TransformerFp8Test, ComputesInBfloat16BesideItsProducts) {
  EXPECT_EQ(Load(at::kFloat8_e4m3fn)->dtype(), at::kBFloat16);
}

TEST_F(TransformerFp8Test, ABlockAndTheNetworkDifferByTheRoundingOfTheirProducts) {
  GoldenRequest request(GoldenRuns()[0], kGpu);
  const auto narrow = Load(at::kFloat8_e4m3fn);
  const auto wide = Load(at::kBFloat16);
  Pass ours(*narrow, request);
  Pass reference(*wide, request);
  const LocalGuidance guidance(request.job.guidance_scale);
  const Tensor x = guidance.Expand(request.job.noise_NSC);
  const Tensor h = reference.Embed(x);
  EXPECT_TRUE(at::equal(ours.Embed(x), h));
  const int blocks = wide->config().num_blocks;
  for (int i = 0; i < blocks; ++i) {
    const Tensor expected = reference.Blocks({i, i + 1}, h);
    const Tensor found = ours.Blocks({i, i + 1}, h);
    const double error = Difference(found - h, expected - h);  // Of what the block adds.
    RecordProperty("block_" + std::to_string(i), std::to_string(error));
    EXPECT_LT(error, 0.1) << i;
    EXPECT_GT(error, 5e-3) << i;
  }
  const double error = Difference(ours.Project(ours.Blocks({0, blocks}, h)),
                                  reference.Project(reference.Blocks({0, blocks}, h)));
  RecordProperty("network", std::to_string(error));
  EXPECT_LT(error, 0.1);
}

// Captured and replayed, the same kernels over the same numbers.
TEST_F(TransformerFp8Test, GraphsChangeNoBit) {
  const auto transformer = Load(at::kFloat8_e4m3fn);
  const auto eager = MakeSerialDenoiser(*transformer, CudaGraphs::kNo);
  const auto graphed = MakeSerialDenoiser(*transformer, CudaGraphs::kYes);
  for (int round = 0; round < 3; ++round) {
    for (const GoldenRun& run : GoldenRuns()) {
      EXPECT_TRUE(at::equal(Denoised(*graphed, run), Denoised(*eager, run))) << run.name;
    }
  }
}

}  // namespace
}  // namespace patchflow
