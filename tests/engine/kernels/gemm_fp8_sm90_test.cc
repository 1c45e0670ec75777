#include "engine/kernels/gemm_fp8_sm90.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <utility>

#include "engine/kernels/fp8_rows.h"

namespace patchflow {
namespace {

using at::Tensor;

const auto kGpu = at::TensorOptions().device(at::kCUDA);
// Of the norm: 1.7e-3 by the one rounding to bfloat16, the rest by the tensor core's sums.
constexpr double kTolerance = 2.5e-3;

struct Quantised {
  explicit Quantised(const Tensor& x)
      : elements(at::empty(x.sizes(), kGpu.dtype(at::kFloat8_e4m3fn))),
        scale(at::empty({x.size(0)}, kGpu)) {
    EXPECT_EQ(
        LaunchFp8Rows({x.const_data_ptr(), elements.mutable_data_ptr(),
                       scale.mutable_data_ptr<float>(), x.size(0), static_cast<int>(x.size(1))},
                      at::cuda::getCurrentCUDAStream()),
        cudaSuccess);
  }
  Tensor Wide() const {
    return elements.to(at::kFloat).to(at::kDouble) * scale.to(at::kDouble).unsqueeze(1);
  }
  Tensor elements;
  Tensor scale;
};

Tensor Normal(at::IntArrayRef sizes) { return at::randn(sizes, kGpu).to(at::kBFloat16); }

struct Operands {
  Operands(int rows, int in, int out) : Operands(Normal({rows, in}), out) {}
  Operands(const Tensor& wide_x, int out)
      : x(wide_x),
        weight(
            (at::randn({out, wide_x.size(1)}, kGpu) / std::sqrt(wide_x.size(1))).to(at::kBFloat16)),
        bias(Normal({out})),
        gate(at::randn({out}, kGpu)),
        residual(Normal({wide_x.size(0), out})) {}

  GemmFp8Args Args(const Tensor& y) const {
    GemmFp8Args args;
    args.x = x.elements.const_data_ptr();
    args.x_scale = x.scale.const_data_ptr<float>();
    args.weight = weight.elements.const_data_ptr();
    args.weight_scale = weight.scale.const_data_ptr<float>();
    args.bias = bias.const_data_ptr();
    args.gate = gate.const_data_ptr<float>();
    args.residual = residual.const_data_ptr();
    args.y = y.mutable_data_ptr();
    args.rows = static_cast<int>(x.elements.size(0));
    args.in = static_cast<int>(x.elements.size(1));
    args.out = static_cast<int>(weight.elements.size(0));
    return args;
  }
  Tensor Poisoned() const {
    return at::full_like(residual, std::numeric_limits<float>::quiet_NaN());
  }

  Quantised x, weight;
  Tensor bias, gate, residual;
};

Tensor Wide(const Tensor& t) { return t.to(at::kDouble); }

// Of the very numbers that the 8-bit ones stand for.
Tensor Reference(const Operands& t, GemmEpilogue epilogue) {
  const Tensor y = at::addmm(Wide(t.bias), t.x.Wide(), t.weight.Wide().t());
  switch (epilogue) {
    case GemmEpilogue::kBias:
      return y;
    case GemmEpilogue::kBiasGelu:
      return at::gelu(y, "tanh");
    case GemmEpilogue::kBiasResidual:
      break;
  }
  return Wide(t.residual) + Wide(t.gate) * y;
}

double RelativeError(const Tensor& ours, const Tensor& reference) {
  return ((Wide(ours) - reference).norm() / reference.norm()).item<double>();
}

using Sizes = std::tuple<int, int, int>;
using Case = std::tuple<Sizes, GemmEpilogue>;
class GemmFp8Sm90Test : public ::testing::TestWithParam<Case> {};

TEST_P(GemmFp8Sm90Test, EqualsDoublePrecisionOfItsOperands) {
  at::manual_seed(71);
  const auto [sizes, epilogue] = GetParam();
  const auto [rows, in, out] = sizes;
  const Operands t(rows, in, out);
  const Tensor y = t.Poisoned();
  ASSERT_EQ(LaunchGemmFp8Sm90(t.Args(y), epilogue, at::cuda::getCurrentCUDAStream()), cudaSuccess);
  const double error = RelativeError(y, Reference(t, epilogue));
  RecordProperty("error", std::to_string(error));
  EXPECT_LT(error, kTolerance);
}

INSTANTIATE_TEST_SUITE_P(
    AwkwardShapes, GemmFp8Sm90Test,
    ::testing::Combine(::testing::Values(Sizes(1, 16, 8), Sizes(1, 1152, 3456),
                                         Sizes(7, 1152, 1152), Sizes(127, 4608, 1152),
                                         Sizes(129, 1152, 4608), Sizes(4097, 1152, 3456),
                                         Sizes(4097, 4608, 1152), Sizes(300, 224, 672),
                                         Sizes(130, 896, 224), Sizes(2500, 1168, 1208)),
                       ::testing::Values(GemmEpilogue::kBias, GemmEpilogue::kBiasGelu,
                                         GemmEpilogue::kBiasResidual)));

void Multiply(const GemmFp8Args& args, GemmEpilogue epilogue) {
  ASSERT_EQ(LaunchGemmFp8Sm90(args, epilogue, at::cuda::getCurrentCUDAStream()), cudaSuccess);
}

// Each row against its own size: a scale of another row would show.
TEST(GemmFp8Sm90ProductTest, ScalesEveryRowAndColumnByItsOwn) {
  at::manual_seed(72);
  const Tensor size = at::exp2(at::rand({777, 1}, kGpu) * 30 - 15);
  Operands t((at::randn({777, 1152}, kGpu) * size).to(at::kBFloat16), 1208);
  t.weight.scale.mul_(at::exp2(at::rand({1208}, kGpu) * 30 - 15));
  GemmFp8Args args = t.Args(t.residual);
  args.bias = nullptr;
  Multiply(args, GemmEpilogue::kBias);
  const Tensor reference = at::mm(t.x.Wide(), t.weight.Wide().t());
  const Tensor error = (Wide(t.residual) - reference).abs();
  EXPECT_LT((error.norm(2, 1) / reference.norm(2, 1)).max().item<double>(), 3 * kTolerance);
  EXPECT_LT((error.norm(2, 0) / reference.norm(2, 0)).max().item<double>(), 3 * kTolerance);
}

TEST(GemmFp8Sm90ProductTest, RowsOfZerosGiveTheBias) {
  const Operands t(at::zeros({200, 1152}, kGpu.dtype(at::kBFloat16)), 1152);
  const Tensor y = t.Poisoned();
  Multiply(t.Args(y), GemmEpilogue::kBias);
  EXPECT_TRUE(at::equal(y, t.bias.expand_as(y)));
}

// The worst for sums of 14 bits: of one sign, and of 448 times 448 each, 1.4 and 2.1 % off on an
// H200. One number is 10^30.
TEST(GemmFp8Sm90ProductTest, TheLargestNumbersStayFiniteAndNear) {
  for (const auto& [in, tolerance] : {std::pair{1152, 2e-2}, std::pair{4608, 3e-2}}) {
    Tensor x = at::ones({130, in}, kGpu.dtype(at::kBFloat16));
    x[5][in - 100] = 1e30;
    Operands t(x, 1152);
    t.weight = Quantised(at::ones({1152, in}, kGpu.dtype(at::kBFloat16)));
    GemmFp8Args args = t.Args(t.residual);
    args.bias = nullptr;
    Multiply(args, GemmEpilogue::kBias);
    const Tensor reference = at::mm(t.x.Wide(), t.weight.Wide().t());
    EXPECT_LT(((Wide(t.residual) - reference) / reference).abs().max().item<double>(), tolerance)
        << in;
  }
}

TEST(GemmFp8Sm90ProductTest, AddsToTheResidualInPlace) {
  at::manual_seed(73);
  const Operands t(1000, 1152, 1152);
  const Tensor reference = Reference(t, GemmEpilogue::kBiasResidual);
  Multiply(t.Args(t.residual), GemmEpilogue::kBiasResidual);
  EXPECT_LT(RelativeError(t.residual, reference), kTolerance);
}

TEST(GemmFp8Sm90ProductTest, WorksWithoutBiasAndGate) {
  at::manual_seed(74);
  const Operands t(500, 1152, 1152);
  const Tensor y = t.Poisoned();
  GemmFp8Args args = t.Args(y);
  args.bias = nullptr;
  args.gate = nullptr;
  const Tensor product = at::mm(t.x.Wide(), t.weight.Wide().t());
  Multiply(args, GemmEpilogue::kBiasResidual);
  EXPECT_LT(RelativeError(y, Wide(t.residual) + product), kTolerance);
  Multiply(args, GemmEpilogue::kBiasGelu);
  EXPECT_LT(RelativeError(y, at::gelu(product, "tanh")), kTolerance);
}

// A race would show as a difference: nothing else is random.
TEST(GemmFp8Sm90ProductTest, GivesTheSameBitsEveryTime) {
  at::manual_seed(75);
  const Operands t(8192, 1152, 1152);
  const Tensor first = t.Poisoned();
  Multiply(t.Args(first), GemmEpilogue::kBiasResidual);
  for (int i = 0; i < 20; ++i) {
    const Tensor again = t.Poisoned();
    Multiply(t.Args(again), GemmEpilogue::kBiasResidual);
    ASSERT_TRUE(at::equal(again, first));
  }
}

TEST(GemmFp8Sm90RefusalTest, FeaturesThatAreNotWholeVectorsAndScalesThatAreMissing) {
  const Operands t(16, 32, 16);
  const auto refused = [&](auto change) {
    GemmFp8Args args = t.Args(t.residual);
    change(args);
    return LaunchGemmFp8Sm90(args, GemmEpilogue::kBias, nullptr) == cudaErrorInvalidValue;
  };
  EXPECT_TRUE(refused([](GemmFp8Args& args) { args.in = 24; }));
  EXPECT_TRUE(refused([](GemmFp8Args& args) { args.out = 12; }));
  EXPECT_TRUE(refused([](GemmFp8Args& args) { args.x_scale = nullptr; }));
  EXPECT_TRUE(refused([](GemmFp8Args& args) { args.weight_scale = nullptr; }));
}

}  // namespace
}  // namespace patchflow
