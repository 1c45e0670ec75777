#include "engine/kernels/gated_residual.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <gtest/gtest.h>

#include <limits>
#include <tuple>

namespace patchflow {
namespace {

using at::Tensor;

const auto kGpu = at::TensorOptions().device(at::kCUDA);

struct Operands {
  Operands(int rows, int width)
      : x(at::randn({rows, width}, kGpu).to(at::kBFloat16)),
        bias(at::randn({width}, kGpu).to(at::kBFloat16)),
        gate(at::randn({width}, kGpu)),
        residual(at::randn({rows, width}, kGpu).to(at::kBFloat16)) {}

  GatedResidualArgs Args(bool with_bias, bool with_gate, const Tensor& y) const {
    return {x.const_data_ptr(),
            with_bias ? bias.const_data_ptr() : nullptr,
            with_gate ? gate.const_data_ptr<float>() : nullptr,
            residual.const_data_ptr(),
            y.mutable_data_ptr(),
            x.size(0),
            static_cast<int>(x.size(1))};
  }
  Tensor Reference(bool with_bias, bool with_gate) const {
    const auto wide = [](const Tensor& t) { return t.to(at::kDouble); };
    Tensor y = wide(x);
    if (with_bias) y = y + wide(bias);
    if (with_gate) y = y * wide(gate);
    return y + wide(residual);
  }

  Tensor x, bias, gate, residual;
};

class GatedResidualTest : public ::testing::TestWithParam<std::tuple<int, int, bool, bool>> {};

TEST_P(GatedResidualTest, EqualsDoublePrecisionToOneRounding) {
  at::manual_seed(21);
  const auto [rows, width, with_bias, with_gate] = GetParam();
  const Operands t(rows, width);
  const Tensor y = at::full_like(t.x, std::numeric_limits<float>::quiet_NaN());
  ASSERT_EQ(LaunchGatedResidual(t.Args(with_bias, with_gate, y), at::cuda::getCurrentCUDAStream()),
            cudaSuccess);
  const Tensor reference = t.Reference(with_bias, with_gate);
  EXPECT_LT(((y.to(at::kDouble) - reference).norm() / reference.norm()).item<double>(), 2.5e-3);
}

INSTANTIATE_TEST_SUITE_P(AwkwardShapes, GatedResidualTest,
                         ::testing::Combine(::testing::Values(1, 7, 300, 8192),
                                            ::testing::Values(8, 72, 1152), ::testing::Bool(),
                                            ::testing::Bool()));

TEST(GatedResidualTest, WorksInPlaceOfEither) {
  at::manual_seed(22);
  const Operands t(33, 1152);
  const Tensor apart = at::empty_like(t.x);
  const auto run = [&](const Tensor& y) {
    ASSERT_EQ(LaunchGatedResidual(t.Args(true, true, y), at::cuda::getCurrentCUDAStream()),
              cudaSuccess);
  };
  run(apart);
  const Tensor x = t.x.clone();
  run(t.x);
  EXPECT_TRUE(at::equal(t.x, apart));
  t.x.copy_(x);
  run(t.residual);
  EXPECT_TRUE(at::equal(t.residual, apart));
}

TEST(GatedResidualTest, RefusesWidthsThatAreNotWholeVectors) {
  GatedResidualArgs args;
  args.rows = 1;
  args.width = 12;
  EXPECT_EQ(LaunchGatedResidual(args, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace patchflow
