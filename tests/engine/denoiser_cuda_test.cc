#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

#include "engine/attention.h"
#include "engine/denoiser.h"
#include "engine/device.h"
#include "engine/preview.h"
#include "tests/engine/bundled_transformer.h"

namespace patchflow {
namespace {

const at::Device kGpu(at::kCUDA, 0);

Tensor Denoised(Denoiser& denoiser, const GoldenRun& run, const Tensor& text = {}) {
  GoldenRequest request(run, kGpu);
  if (text.defined()) {
    request.job.prompts.text_BLD = text;
  }
  CountingMonitor monitor;
  return denoiser.Denoise(request.job, monitor).cpu();
}

class CudaDenoiserTest : public testing::Test {
 protected:
  DeviceThread thread_{DeviceThread::MakeStream(kGpu)};
};

double ErrorOf(const GoldenRun& run, at::ScalarType dtype) {
  const auto transformer = LoadBundledTransformer({.device = kGpu, .dtype = dtype});
  const Tensor expected = GoldenRequest(run).latents_NSC;
  const Tensor found = Denoised(*MakeSerialDenoiser(*transformer), run);
  return ((found - expected).norm() / expected.norm()).item<double>();
}

// The runs are of few steps, random text and strong guidance, which amplify rounding: float16 is
// 0.048 off at the worst. bfloat16 has 3 bits less, so 8 times as much and not more is rounding.
TEST_F(CudaDenoiserTest, NarrowDtypesDifferFromFloatByRounding) {
  for (const GoldenRun& run : GoldenRuns()) {
    const double half_error = ErrorOf(run, at::kHalf);
    EXPECT_LT(half_error, 0.1) << run.name;
    EXPECT_LT(ErrorOf(run, at::kBFloat16), 12 * half_error) << run.name;
  }
}

// The same kernels over the same numbers: captured, replayed, and for requests of another text and
// of more steps.
TEST_F(CudaDenoiserTest, GraphsChangeNoBit) {
  const auto transformer = LoadBundledTransformer({.device = kGpu, .dtype = at::kBFloat16});
  const auto eager = MakeSerialDenoiser(*transformer, CudaGraphs::kNo);
  const auto graphed = MakeSerialDenoiser(*transformer, CudaGraphs::kYes);
  std::vector<GoldenRun> runs = GoldenRuns();
  runs.push_back({"dpm", "dpm-solver++", 20, 4.5});
  for (int round = 0; round < 3; ++round) {
    for (const GoldenRun& run : runs) {
      EXPECT_TRUE(at::equal(Denoised(*graphed, run), Denoised(*eager, run)))
          << run.name << " " << run.steps << " steps, round " << round;
    }
    const Tensor text =
        at::randn_like(GoldenRequest(runs[0], kGpu).job.prompts.text_BLD).contiguous();
    EXPECT_TRUE(at::equal(Denoised(*graphed, runs[0], text), Denoised(*eager, runs[0], text)));
  }
}

// Shown at every step, and drawn when later steps have overwritten what was shown.
TEST_F(CudaDenoiserTest, PreviewsBesideGraphsChangeNoBitAndAreOfTheirStep) {
  const auto transformer = LoadBundledTransformer({.device = kGpu, .dtype = at::kBFloat16});
  const auto graphed = MakeSerialDenoiser(*transformer, CudaGraphs::kYes);
  const auto eager = MakeSerialDenoiser(*transformer, CudaGraphs::kNo);
  const auto map = std::make_shared<const LatentMap>(
      LatentMap{4, {0.1, 0, 0, 0, 0.1, 0, 0, 0, 0.1, 0.1, 0.1, 0, 0, 0, 0}});
  for (const GoldenRun& run : GoldenRuns()) {
    const Tensor plain = Denoised(*graphed, run);
    std::vector<std::vector<std::vector<uint8_t>>> drawn;
    for (Denoiser* denoiser : {graphed.get(), graphed.get(), eager.get()}) {
      std::vector<DrawPreview> draws;
      const PreviewRequest asked{
          .every_steps = 1, .max_edge_px = 0, .show = [&](int steps_done, DrawPreview draw) {
            draws.push_back(std::move(draw));
            EXPECT_EQ(steps_done, static_cast<int>(draws.size()));
          }};
      GoldenRequest request(run, kGpu);
      PreviewView view(asked, map, request.job.grid, 2);
      request.job.view = &view;
      CountingMonitor monitor;
      EXPECT_TRUE(at::equal(denoiser->Denoise(request.job, monitor).cpu(), plain)) << run.name;
      EXPECT_EQ(draws.size(), static_cast<size_t>(run.steps));
      drawn.emplace_back();
      for (const DrawPreview& draw : draws) drawn.back().push_back(draw().pixels);
    }
    EXPECT_EQ(drawn[0], drawn[1]) << run.name;
    EXPECT_EQ(drawn[0], drawn[2]) << run.name;
    EXPECT_NE(drawn[0].front(), drawn[0].back());
  }
}

TEST_F(CudaDenoiserTest, KindsThatWereDroppedAreCapturedAgain) {
  const auto transformer = LoadBundledTransformer({.device = kGpu, .dtype = at::kBFloat16});
  const auto eager = MakeSerialDenoiser(*transformer, CudaGraphs::kNo);
  const auto graphed = MakeSerialDenoiser(*transformer, CudaGraphs::kYes);
  for (double scale : {2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 2.0, 2.0}) {
    const GoldenRun run{"dpm", "dpm-solver++", 6, scale};
    EXPECT_TRUE(at::equal(Denoised(*graphed, run), Denoised(*eager, run))) << scale;
  }
}

// Every kernel that attention may choose, with its log-sum-exp, against the one of CPUs in float32.
TEST_F(CudaDenoiserTest, AttentionKernelsAgreeWithTheCpu) {
  for (at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (int64_t head_size : {72, 36, 512}) {
      const auto random = [&](int64_t tokens) {
        return at::randn({2, tokens, 3, head_size}).to(dtype);
      };
      const Tensor q = random(50);
      const Tensor k = random(77);
      const Tensor v = random(77);
      const Tensor bias = at::randn({2, 1, 1, 77}).to(dtype);
      const auto wide = [](const Tensor& x) { return x.cpu().to(at::kFloat); };
      const AttentionPart expected = SdpaWithLse(wide(q), wide(k), wide(v));
      const AttentionPart found = SdpaWithLse(q.cuda(), k.cuda(), v.cuda());
      const double tolerance = dtype == at::kBFloat16 ? 2e-2 : 5e-3;
      EXPECT_LT(RelativeDifference(wide(found.o_BSHD), expected.o_BSHD), tolerance)
          << dtype << " " << head_size;
      EXPECT_LT(RelativeDifference(wide(found.lse_BHS), expected.lse_BHS), tolerance)
          << dtype << " " << head_size;
      EXPECT_LT(RelativeDifference(wide(Sdpa(q.cuda(), k.cuda(), v.cuda(), bias.cuda())),
                                   Sdpa(wide(q), wide(k), wide(v), wide(bias))),
                tolerance)
          << dtype << " " << head_size;
    }
  }
}

// Slices of one product, text with padding, and operands that the copy engine can't address: odd
// strides and addresses, one text for the whole batch.
TEST_F(CudaDenoiserTest, OurAttentionAgreesWithStockKernels) {
  const auto options = at::TensorOptions().device(kGpu).dtype(at::kBFloat16);
  const Tensor qkv = at::randn({2, 300, 3, 4, 72}, options);
  const Tensor text = at::randn({2, 21, 4, 72}, options);
  const Tensor odd = at::randn({2, 21, 4, 73}, options).narrow(3, 1, 72);
  const Tensor shared = at::randn({1, 21, 4, 72}, options).expand({2, 21, 4, 72});
  Tensor padding = at::zeros({2, 1, 1, 21}, options);
  padding.select(0, 1).narrow(-1, 9, 12).fill_(-10000);
  const Tensor q = qkv.select(2, 0);
  const auto expect_agreement = [&](const Tensor& k, const Tensor& v, const Tensor& bias) {
    AttentionShape shape = AttentionShapeOf(q, k, bias);
    EXPECT_EQ(ChooseAttentionKernel(shape),
              shape.hopper ? AttentionKernel::kSm90 : AttentionKernel::kMemoryEfficient);
    const Tensor stock =
        SdpaBy(AttentionKernel::kMemoryEfficient, q, k.contiguous(), v.contiguous(), bias);
    EXPECT_LT(RelativeDifference(Sdpa(q, k, v, bias), stock), 1e-2);
  };
  expect_agreement(text, text, AlignBias(padding));
  expect_agreement(odd, odd, padding);
  expect_agreement(shared, text, padding.narrow(0, 1, 1));
  expect_agreement(text, shared, padding.narrow(0, 1, 1).expand({2, 1, 1, 21}));
  const Tensor stock =
      SdpaBy(AttentionKernel::kMemoryEfficient, q, qkv.select(2, 1), qkv.select(2, 2));
  EXPECT_LT(RelativeDifference(Sdpa(q, qkv.select(2, 1), qkv.select(2, 2)), stock), 1e-2);
}

// What the fused product with GELU of the MLP takes it to be.
TEST_F(CudaDenoiserTest, FusedGeluIsTheTanhForm) {
  for (at::ScalarType dtype : {at::kBFloat16, at::kHalf, at::kFloat}) {
    const auto options = at::TensorOptions().device(kGpu).dtype(dtype);
    const Tensor x = at::randn({256, 64}, options);
    const Tensor weight_IO = at::randn({64, 128}, options) / 4;
    const Tensor bias = at::randn({128}, options);
    const Tensor found = at::_addmm_activation(bias, x, weight_IO, 1, 1, true);
    const auto wide = [](const Tensor& t) { return t.cpu().to(at::kDouble); };
    const Tensor product = at::addmm(wide(bias), wide(x), wide(weight_IO));
    const double to_tanh = (wide(found) - at::gelu(product, "tanh")).abs().mean().item<double>();
    const double to_erf = (wide(found) - at::gelu(product, "none")).abs().mean().item<double>();
    if (dtype == at::kFloat) {
      EXPECT_LT(to_tanh, to_erf);
    }
    EXPECT_LT(to_tanh, 5e-3);
  }
}

}  // namespace
}  // namespace patchflow
