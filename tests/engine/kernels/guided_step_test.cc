#include "engine/kernels/guided_step.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <gtest/gtest.h>

#include <tuple>

namespace patchflow {
namespace {

using at::Tensor;

const auto kGpu = at::TensorOptions().device(at::kCUDA);
constexpr int64_t kRow = 3;
constexpr double kScale = 4.5;

struct Operands {
  Operands(int64_t n, int branches)
      : eps(at::randn({branches, n}, kGpu).to(at::kBFloat16)),
        table(at::randn({8, 6}, kGpu)),
        step(at::full({1}, kRow, kGpu.dtype(at::kLong))),
        x(at::randn({n}, kGpu)),
        previous_x0(at::randn({n}, kGpu)) {}

  GuidedStepArgs Args(bool looks_back) const {
    return {eps.const_data_ptr(),
            static_cast<int>(eps.size(0)),
            static_cast<float>(kScale),
            table.const_data_ptr<float>(),
            step.const_data_ptr<int64_t>(),
            x.mutable_data_ptr<float>(),
            looks_back ? previous_x0.mutable_data_ptr<float>() : nullptr,
            x.size(0)};
  }

  Tensor eps, table, step, x, previous_x0;
};

struct Expected {
  Expected(const Operands& t, bool looks_back) {
    const auto wide = [](const Tensor& of) { return of.to(at::kDouble); };
    const Tensor row = wide(t.table[kRow]);
    Tensor eps = wide(t.eps[0]);
    if (t.eps.size(0) == 2) eps = eps + kScale * (wide(t.eps[1]) - eps);
    x0 = row[1] * wide(t.x) + row[2] * eps;
    x = row[3] * wide(t.x) + row[4] * x0;
    if (looks_back) x = x + row[5] * wide(t.previous_x0);
  }
  Tensor x, x0;
};

double RelativeError(const Tensor& ours, const Tensor& reference) {
  return ((ours.to(at::kDouble) - reference).norm() / reference.norm()).item<double>();
}

class GuidedStepTest : public ::testing::TestWithParam<std::tuple<int64_t, int, bool>> {};

TEST_P(GuidedStepTest, EqualsDoublePrecision) {
  at::manual_seed(41);
  const auto [n, branches, looks_back] = GetParam();
  const Operands t(n, branches);
  const Expected expected(t, looks_back);
  const Tensor previous_before = t.previous_x0.clone();
  ASSERT_EQ(LaunchGuidedStep(t.Args(looks_back), at::cuda::getCurrentCUDAStream()), cudaSuccess);
  EXPECT_LT(RelativeError(t.x, expected.x), 1e-6);
  if (looks_back) {
    EXPECT_LT(RelativeError(t.previous_x0, expected.x0), 1e-6);
  } else {
    EXPECT_TRUE(at::equal(t.previous_x0, previous_before));
  }
}

INSTANTIATE_TEST_SUITE_P(AwkwardShapes, GuidedStepTest,
                         ::testing::Combine(::testing::Values(1, 255, 257, 65536),
                                            ::testing::Values(1, 2), ::testing::Bool()));

TEST(GuidedStepTest, RefusesThreeBranches) {
  GuidedStepArgs args;
  args.n = 1;
  args.branches = 3;
  EXPECT_EQ(LaunchGuidedStep(args, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace patchflow
