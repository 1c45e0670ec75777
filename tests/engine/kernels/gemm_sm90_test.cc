#include "engine/kernels/gemm_sm90.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <tuple>

namespace patchflow {
namespace {

using at::Tensor;

const auto kGpu = at::TensorOptions().device(at::kCUDA);

struct Operands {
  Operands(int rows, int in, int out)
      : x(at::randn({rows, in}, kGpu).to(at::kBFloat16)),
        weight((at::randn({out, in}, kGpu) / std::sqrt(in)).to(at::kBFloat16)),
        bias(at::randn({out}, kGpu).to(at::kBFloat16)),
        gate(at::randn({out}, kGpu)),
        residual(at::randn({rows, out}, kGpu).to(at::kBFloat16)) {}

  GemmSm90Args Args(const Tensor& y) const {
    GemmSm90Args args;
    args.x = x.const_data_ptr();
    args.weight = weight.const_data_ptr();
    args.bias = bias.const_data_ptr();
    args.gate = gate.const_data_ptr<float>();
    args.residual = residual.const_data_ptr();
    args.y = y.mutable_data_ptr();
    args.rows = static_cast<int>(x.size(0));
    args.in = static_cast<int>(x.size(1));
    args.out = static_cast<int>(weight.size(0));
    return args;
  }
  Tensor Poisoned() const {
    return at::full_like(residual, std::numeric_limits<float>::quiet_NaN());
  }

  Tensor x, weight, bias, gate, residual;
};

Tensor Wide(const Tensor& t) { return t.to(at::kDouble); }

Tensor Reference(const Operands& t, GemmEpilogue epilogue) {
  const Tensor y = at::addmm(Wide(t.bias), Wide(t.x), Wide(t.weight).t());
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
class GemmSm90Test : public ::testing::TestWithParam<std::tuple<Sizes, GemmEpilogue, GemmTile>> {};

TEST_P(GemmSm90Test, EqualsDoublePrecisionToOneRounding) {
  at::manual_seed(31);
  const auto [sizes, epilogue, tile] = GetParam();
  const auto [rows, in, out] = sizes;
  const Operands t(rows, in, out);
  const Tensor y = t.Poisoned();
  if (!Serves(tile, epilogue, in)) {
    EXPECT_EQ(LaunchGemmSm90(t.Args(y), epilogue, tile, at::cuda::getCurrentCUDAStream()),
              cudaErrorInvalidValue);
    return;
  }
  ASSERT_EQ(LaunchGemmSm90(t.Args(y), epilogue, tile, at::cuda::getCurrentCUDAStream()),
            cudaSuccess);
  EXPECT_LT(RelativeError(y, Reference(t, epilogue)), 3e-3) << NameOf(tile);
}

INSTANTIATE_TEST_SUITE_P(
    AwkwardShapes, GemmSm90Test,
    ::testing::Combine(::testing::Values(Sizes(1, 8, 8), Sizes(127, 72, 200),
                                         Sizes(300, 1152, 3456), Sizes(129, 4608, 1152),
                                         Sizes(1, 1152, 8), Sizes(2500, 1160, 1208),
                                         Sizes(8192, 1152, 1152)),
                       ::testing::Values(GemmEpilogue::kBias, GemmEpilogue::kBiasGelu,
                                         GemmEpilogue::kBiasResidual),
                       ::testing::ValuesIn(kGemmTiles)));

class GemmSm90TileTest : public ::testing::TestWithParam<GemmTile> {};

TEST_P(GemmSm90TileTest, AddsToTheResidualInPlace) {
  at::manual_seed(32);
  const Operands t(1000, 1152, 1152);
  const Tensor reference = Reference(t, GemmEpilogue::kBiasResidual);
  ASSERT_EQ(LaunchGemmSm90(t.Args(t.residual), GemmEpilogue::kBiasResidual, GetParam(),
                           at::cuda::getCurrentCUDAStream()),
            cudaSuccess);
  EXPECT_LT(RelativeError(t.residual, reference), 3e-3);
}

TEST_P(GemmSm90TileTest, WorksWithoutBiasAndGate) {
  at::manual_seed(33);
  const Operands t(500, 1152, 1152);
  const Tensor y = t.Poisoned();
  GemmSm90Args args = t.Args(y);
  args.bias = nullptr;
  args.gate = nullptr;
  const auto stream = at::cuda::getCurrentCUDAStream();
  const Tensor product = at::mm(Wide(t.x), Wide(t.weight).t());
  ASSERT_EQ(LaunchGemmSm90(args, GemmEpilogue::kBiasResidual, GetParam(), stream), cudaSuccess);
  EXPECT_LT(RelativeError(y, Wide(t.residual) + product), 3e-3);
  if (!Serves(GetParam(), GemmEpilogue::kBias, args.in)) {
    EXPECT_EQ(LaunchGemmSm90(args, GemmEpilogue::kBias, GetParam(), stream), cudaErrorInvalidValue);
    return;
  }
  ASSERT_EQ(LaunchGemmSm90(args, GemmEpilogue::kBias, GetParam(), stream), cudaSuccess);
  EXPECT_LT(RelativeError(y, product), 3e-3);
  ASSERT_EQ(LaunchGemmSm90(args, GemmEpilogue::kBiasGelu, GetParam(), stream), cudaSuccess);
  EXPECT_LT(RelativeError(y, at::gelu(product, "tanh")), 3e-3);
}

// A race would show as a difference: nothing else is random.
TEST_P(GemmSm90TileTest, GivesTheSameBitsEveryTime) {
  at::manual_seed(34);
  const Operands t(8192, 1152, 1152);
  const Tensor first = t.Poisoned();
  const auto stream = at::cuda::getCurrentCUDAStream();
  const auto run = [&](const Tensor& y) {
    ASSERT_EQ(LaunchGemmSm90(t.Args(y), GemmEpilogue::kBiasResidual, GetParam(), stream),
              cudaSuccess);
  };
  run(first);
  for (int i = 0; i < 20; ++i) {
    const Tensor again = t.Poisoned();
    run(again);
    ASSERT_TRUE(at::equal(again, first));
  }
}

INSTANTIATE_TEST_SUITE_P(Tiles, GemmSm90TileTest, ::testing::ValuesIn(kGemmTiles));

std::string Chosen(int64_t rows, int64_t in, int64_t out, GemmEpilogue epilogue) {
  const auto tile = ChooseGemmTile(rows, in, out, epilogue);
  return tile ? std::string(NameOf(*tile)) : "cuBLASLt";
}

// At the rows that were measured, and up to half-way to the next.
TEST(GemmSm90ChoiceTest, TakesWhatWasMeasuredFastest) {
  const auto qkv = [](int64_t rows) { return Chosen(rows, 1152, 3456, GemmEpilogue::kBias); };
  EXPECT_EQ(qkv(1), "128x144");
  EXPECT_EQ(qkv(2048), "128x144");
  EXPECT_EQ(qkv(4096), "128x144");
  EXPECT_EQ(qkv(8192), "128x192 overlapped");
  EXPECT_EQ(qkv(16384), "128x192 overlapped");
  EXPECT_EQ(qkv(16385), "128x192 overlapped");
  EXPECT_EQ(qkv(1000000), "128x192 overlapped");
  EXPECT_EQ(Chosen(8192, 1152, 1152, GemmEpilogue::kBias), "128x192 overlapped");
  EXPECT_EQ(Chosen(8192, 1152, 1152, GemmEpilogue::kBiasResidual), "128x192 overlapped");
  EXPECT_EQ(Chosen(8192, 1152, 4608, GemmEpilogue::kBiasGelu), "128x192 overlapped");
  EXPECT_EQ(Chosen(8192, 4608, 1152, GemmEpilogue::kBiasResidual), "128x192");
  EXPECT_EQ(Chosen(1024, 4608, 1152, GemmEpilogue::kBiasResidual), "64x192 in turns");
  EXPECT_EQ(Chosen(8192, 1152, 1728, GemmEpilogue::kBias), "128x192");
  EXPECT_EQ(Chosen(0, 1152, 3456, GemmEpilogue::kBias), "cuBLASLt");
}

// Every product of a block with every tile that it may be given, at rows that fill no tile.
TEST(GemmSm90ChoiceTest, EveryChoiceMultiplies) {
  at::manual_seed(35);
  using Product = std::tuple<int, int, GemmEpilogue>;
  for (const auto& [in, out, epilogue] :
       {Product{1152, 3456, GemmEpilogue::kBias}, Product{1152, 1152, GemmEpilogue::kBias},
        Product{1152, 1152, GemmEpilogue::kBiasResidual},
        Product{1152, 4608, GemmEpilogue::kBiasGelu},
        Product{4608, 1152, GemmEpilogue::kBiasResidual}}) {
    for (const int rows : {1000, 2000, 4000, 8000, 32000}) {
      const auto tile = ChooseGemmTile(rows, in, out, epilogue);
      if (!tile) continue;
      const Operands t(rows, in, out);
      const Tensor y = t.Poisoned();
      ASSERT_EQ(LaunchGemmSm90(t.Args(y), epilogue, *tile, at::cuda::getCurrentCUDAStream()),
                cudaSuccess);
      EXPECT_LT(RelativeError(y, Reference(t, epilogue)), 3e-3) << rows << " " << NameOf(*tile);
    }
  }
}

TEST(GemmSm90RefusalTest, FeaturesThatAreNotWholeVectors) {
  const Operands t(16, 16, 16);
  GemmSm90Args args = t.Args(t.residual);
  args.in = 12;
  EXPECT_EQ(LaunchGemmSm90(args, GemmEpilogue::kBias, GemmTile::k128x192, nullptr),
            cudaErrorInvalidValue);
  args.in = 16;
  args.out = 12;
  EXPECT_EQ(LaunchGemmSm90(args, GemmEpilogue::kBias, GemmTile::k128x192, nullptr),
            cudaErrorInvalidValue);
}

}  // namespace
}  // namespace patchflow
