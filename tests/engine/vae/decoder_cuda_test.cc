// The decoder on a GPU against diffusers' float32 pixels.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "engine/device.h"
#include "tests/engine/vae/vae_testing.h"

namespace patchflow {
namespace {

const at::Device kGpu(at::kCUDA, 0);

double PsnrOf(const Tensor& found, const Tensor& expected) {
  const auto shown = [](const Tensor& x) { return x.to(at::kDouble).clamp(-1, 1); };
  const double error = (shown(found) - shown(expected)).square().mean().item<double>();
  return 10 * std::log10(4 / error);
}

Tensor DecodedOnGpu(const std::string& variant, const Tensor& latents, at::ScalarType dtype,
                    int64_t workspace_bytes = VaeOptions{}.workspace_bytes) {
  VaeOptions options;
  options.read.device = kGpu;
  options.read.dtype = dtype;
  options.workspace_bytes = workspace_bytes;
  return DecodeWhole(*LoadDecoder(variant, options), latents.to(kGpu), {}).cpu();
}

class CudaDecoderTest : public testing::TestWithParam<std::string> {
 protected:
  Tensor Golden(const std::string& what) const {
    return ExpectedVae().Get(GetParam() + "." + what);
  }
  DeviceThread thread_{DeviceThread::MakeStream(kGpu)};
};
INSTANTIATE_TEST_SUITE_P(Variants, CudaDecoderTest,
                         testing::Values("tiny", "narrowing", "widening", "flux", "no_attention",
                                         "bundled"),
                         [](const auto& info) { return info.param; });

// DeviceThread lets float32 products be computed in TF32, of 10 bits.
TEST_P(CudaDecoderTest, Float32EqualsDiffusersToTf32) {
  EXPECT_LT(
      RelativeDifference(DecodedOnGpu(GetParam(), Golden("latents"), at::kFloat), Golden("pixels")),
      5e-3);
}

TEST_P(CudaDecoderTest, HalfPrecisionComesClose) {
  const Tensor latents = Golden("latents");
  const Tensor pixels = Golden("pixels");
  EXPECT_GT(PsnrOf(DecodedOnGpu(GetParam(), latents, at::kBFloat16), pixels), 35);
  EXPECT_GT(PsnrOf(DecodedOnGpu(GetParam(), latents, at::kHalf), pixels), 45);
}

TEST_P(CudaDecoderTest, SlabsEqualTheWhole) {
  at::manual_seed(3);
  const Tensor latents = at::randn({1, Golden("latents").size(1), 19, 13});
  const Tensor whole = DecodedOnGpu(GetParam(), latents, at::kFloat);
  for (const int64_t workspace_bytes : {3'000'000, 6'000'000}) {
    const Tensor slabs = DecodedOnGpu(GetParam(), latents, at::kFloat, workspace_bytes);
    EXPECT_LT(RelativeDifference(slabs, whole), 5e-3) << workspace_bytes;
  }
}

// Of gigabytes, so that what libraries take for themselves counts little.
TEST(CudaDecoderMemory, IsAsPlanned) {
  const DeviceThread thread(DeviceThread::MakeStream(kGpu));
  VaeOptions options;
  options.read.device = kGpu;
  options.read.dtype = at::kBFloat16;
  const auto decoder = LoadDecoder("bundled", options);
  const Tensor latents = at::randn({1, decoder->config().latent_channels, 512, 512}, kGpu);
  ResetPeakMemory(kGpu);
  const int64_t before = MemoryOf(kGpu).used_bytes;
  DecodeWhole(*decoder, latents, {});
  WaitForDevice(kGpu);
  const int64_t planned_bytes = decoder->PeakBytes(512, 512);
  EXPECT_GT(planned_bytes, int64_t{1} << 30);
  EXPECT_LE(MemoryOf(kGpu).peak_bytes - before, planned_bytes + planned_bytes / 4);
}

}  // namespace
}  // namespace patchflow
