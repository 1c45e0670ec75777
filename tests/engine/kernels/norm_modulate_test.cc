#include "engine/kernels/norm_modulate.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <gtest/gtest.h>

#include <limits>
#include <tuple>

namespace patchflow {
namespace {

using at::Tensor;

const auto kGpu = at::TensorOptions().device(at::kCUDA);

Tensor Modulated(const Tensor& x, const Tensor& scale, const Tensor& shift, double eps) {
  const Tensor y = at::full_like(x, std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(LaunchNormModulate({x.const_data_ptr(), scale.const_data_ptr<float>(),
                                shift.const_data_ptr<float>(), y.mutable_data_ptr(), x.size(0),
                                static_cast<int>(x.size(1)), static_cast<float>(eps)},
                               at::cuda::getCurrentCUDAStream()),
            cudaSuccess);
  return y;
}

Tensor Reference(const Tensor& x, const Tensor& scale, const Tensor& shift, double eps) {
  return at::layer_norm(x.to(at::kDouble), {x.size(1)}, scale.to(at::kDouble),
                        shift.to(at::kDouble), eps);
}

double RelativeError(const Tensor& ours, const Tensor& reference) {
  return ((ours.to(at::kDouble) - reference).norm() / reference.norm()).item<double>();
}

class NormModulateTest : public ::testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(NormModulateTest, EqualsDoublePrecisionToOneRounding) {
  at::manual_seed(11);
  const auto [rows, width] = GetParam();
  const Tensor x = (at::randn({rows, width}, kGpu) * 3 + 1).to(at::kBFloat16);
  const Tensor scale = at::randn({width}, kGpu);
  const Tensor shift = at::randn({width}, kGpu);
  EXPECT_LT(RelativeError(Modulated(x, scale, shift, 1e-6), Reference(x, scale, shift, 1e-6)),
            2.5e-3);
}

INSTANTIATE_TEST_SUITE_P(AwkwardShapes, NormModulateTest,
                         ::testing::Combine(::testing::Values(1, 3, 4, 257, 8192),
                                            ::testing::Values(8, 256, 264, 576, 1024, 1152, 1408,
                                                              1664, 2048)));

// One pass over squares would lose everything.
TEST(NormModulateTest, AMeanFarFromZeroCostsNothing) {
  at::manual_seed(12);
  const Tensor x = (at::randn({64, 1152}, kGpu) + 200).to(at::kBFloat16);
  const Tensor scale = at::ones({1152}, kGpu);
  const Tensor shift = at::zeros({1152}, kGpu);
  EXPECT_LT(RelativeError(Modulated(x, scale, shift, 1e-6), Reference(x, scale, shift, 1e-6)),
            2.5e-3);
}

TEST(NormModulateTest, WorksInPlace) {
  at::manual_seed(13);
  const Tensor x = at::randn({100, 1152}, kGpu).to(at::kBFloat16);
  const Tensor scale = at::randn({1152}, kGpu);
  const Tensor shift = at::randn({1152}, kGpu);
  const Tensor apart = Modulated(x, scale, shift, 1e-5);
  EXPECT_EQ(
      LaunchNormModulate({x.const_data_ptr(), scale.const_data_ptr<float>(),
                          shift.const_data_ptr<float>(), x.mutable_data_ptr(), 100, 1152, 1e-5F},
                         at::cuda::getCurrentCUDAStream()),
      cudaSuccess);
  EXPECT_TRUE(at::equal(x, apart));
}

TEST(NormModulateTest, RefusesWidthsThatItDoesNotHold) {
  for (const int width : {0, 4, 1150, kNormModulateMaxWidth + 8}) {
    NormModulateArgs args;
    args.rows = 1;
    args.width = width;
    EXPECT_EQ(LaunchNormModulate(args, nullptr), cudaErrorInvalidValue) << width;
  }
}

}  // namespace
}  // namespace patchflow
