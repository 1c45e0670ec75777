#include "engine/kernels/fp8_rows.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <tuple>

namespace patchflow {
namespace {

using at::Tensor;

const auto kGpu = at::TensorOptions().device(at::kCUDA);

struct Rows {
  explicit Rows(at::IntArrayRef sizes)
      : elements(at::full(sizes, 0x55, kGpu.dtype(at::kByte))),
        scale(at::full({sizes[0]}, std::numeric_limits<float>::quiet_NaN(), kGpu)) {}
  Tensor elements;  // The bytes of e4m3.
  Tensor scale;
};

Rows Quantised(const Tensor& x) {
  Rows rows(x.sizes());
  EXPECT_EQ(
      LaunchFp8Rows({x.const_data_ptr(), rows.elements.mutable_data_ptr(),
                     rows.scale.mutable_data_ptr<float>(), x.size(0), static_cast<int>(x.size(1))},
                    at::cuda::getCurrentCUDAStream()),
      cudaSuccess);
  return rows;
}

// By LibTorch on the CPU.
Rows Reference(const Tensor& x) {
  const Tensor wide = x.cpu().to(at::kFloat);
  const Tensor amax = wide.abs().amax({1}).clamp_min(kFp8LeastAmax);
  Rows rows(x.sizes());
  rows.scale = amax / kFp8Largest;
  rows.elements = (wide * (at::full_like(amax, kFp8Largest) / amax).unsqueeze(1))
                      .clamp(-kFp8Largest, kFp8Largest)
                      .to(at::kFloat8_e4m3fn)
                      .view(at::kByte);
  return rows;
}

void ExpectSameBits(const Rows& ours, const Rows& reference) {
  EXPECT_TRUE(at::equal(ours.scale.cpu(), reference.scale.cpu()));
  const Tensor differ = ours.elements.cpu() != reference.elements.cpu();
  EXPECT_EQ(differ.sum().item<int64_t>(), 0) << "of " << differ.numel();
}

class Fp8RowsTest : public ::testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(Fp8RowsTest, EqualsLibTorchToTheBit) {
  at::manual_seed(61);
  const auto [rows, width] = GetParam();
  // Rows of sizes from 2^-20 to 2^20.
  const Tensor size = at::exp2(at::rand({rows, 1}, kGpu) * 40 - 20);
  const Tensor x = (at::randn({rows, width}, kGpu) * size).to(at::kBFloat16);
  ExpectSameBits(Quantised(x), Reference(x));
}

INSTANTIATE_TEST_SUITE_P(AwkwardShapes, Fp8RowsTest,
                         ::testing::Combine(::testing::Values(1, 3, 4, 257, 4097),
                                            ::testing::Values(8, 224, 264, 576, 896, 1152, 2304,
                                                              4608, 4616, kFp8RowsMaxWidth)));

TEST(Fp8RowsEdgesTest, ZerosStayZerosAndTheirScaleIsFinite) {
  const Tensor x = at::zeros({5, 1152}, kGpu.dtype(at::kBFloat16));
  const Rows rows = Quantised(x);
  EXPECT_EQ(rows.elements.count_nonzero().item<int64_t>(), 0);
  EXPECT_TRUE(at::isfinite(rows.scale).all().item<bool>());
  EXPECT_TRUE((rows.scale > 0).all().item<bool>());
}

// One number rules its row's scale: what is below 2^-10 of it goes to 0, and no other row sees it.
TEST(Fp8RowsEdgesTest, AnOutlierCoarsensItsOwnRowAlone) {
  at::manual_seed(62);
  Tensor x = at::randn({64, 1152}, kGpu).to(at::kBFloat16);
  const Rows before = Quantised(x);
  x[7][1000] = 1e30;
  const Rows after = Quantised(x);
  ExpectSameBits(after, Reference(x));
  const Tensor of_row = after.elements[7].view(at::kFloat8_e4m3fn).to(at::kFloat);
  EXPECT_EQ(of_row.count_nonzero().item<int64_t>(), 1);
  for (const int row : {6, 8}) {
    EXPECT_TRUE(at::equal(after.elements[row], before.elements[row]));
  }
}

TEST(Fp8RowsEdgesTest, NumbersThatAreTooSmallToInvertAreZero) {
  const Tensor x = at::full({2, 64}, 1e-38, kGpu).to(at::kBFloat16);
  ExpectSameBits(Quantised(x), Reference(x));
  EXPECT_EQ(Quantised(x).elements.count_nonzero().item<int64_t>(), 0);
}

TEST(Fp8RowsEdgesTest, WhatIsNotFiniteStaysSo) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Tensor x = at::ones({3, 1152}, kGpu.dtype(at::kBFloat16));
    x[1][17] = bad;
    const Rows rows = Quantised(x);
    const Tensor wide = rows.elements.view(at::kFloat8_e4m3fn).to(at::kFloat);
    EXPECT_TRUE(std::isnan(wide[1][17].item<float>())) << bad;
    EXPECT_TRUE(at::isfinite(wide[0]).all().item<bool>());
    EXPECT_TRUE(at::isfinite(wide[2]).all().item<bool>());
  }
}

TEST(Fp8RowsEdgesTest, RefusesWidthsThatItDoesNotHold) {
  for (const int width : {0, 4, 1150, kFp8RowsMaxWidth + 8}) {
    Fp8RowsArgs args;
    args.rows = 1;
    args.width = width;
    EXPECT_EQ(LaunchFp8Rows(args, nullptr), cudaErrorInvalidValue) << width;
  }
}

class NormModulateFp8Test : public ::testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(NormModulateFp8Test, EqualsItsTwoPartsToTheBit) {
  at::manual_seed(63);
  const auto [rows, width] = GetParam();
  const Tensor x = (at::randn({rows, width}, kGpu) * 3 + 1).to(at::kBFloat16);
  const Tensor scale = at::randn({width}, kGpu);
  const Tensor shift = at::randn({width}, kGpu);
  const Tensor normed = at::empty_like(x);
  const auto stream = at::cuda::getCurrentCUDAStream();
  NormModulateArgs args{x.const_data_ptr(),
                        scale.const_data_ptr<float>(),
                        shift.const_data_ptr<float>(),
                        normed.mutable_data_ptr(),
                        rows,
                        width,
                        1e-6F};
  ASSERT_EQ(LaunchNormModulate(args, stream), cudaSuccess);
  Rows fused(x.sizes());
  args.y = fused.elements.mutable_data_ptr();
  ASSERT_EQ(LaunchNormModulateFp8(args, fused.scale.mutable_data_ptr<float>(), stream),
            cudaSuccess);
  ExpectSameBits(fused, Quantised(normed));
}

INSTANTIATE_TEST_SUITE_P(AwkwardShapes, NormModulateFp8Test,
                         ::testing::Combine(::testing::Values(1, 3, 4, 257, 8192),
                                            ::testing::Values(8, 224, 256, 264, 576, 1024, 1152,
                                                              1408, 1664, 2048)));

}  // namespace
}  // namespace patchflow
