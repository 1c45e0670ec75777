#include "engine/kernels/cpu_kernels.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <tuple>

namespace patchflow {
namespace {

using at::Tensor;

constexpr float kUntouched = 12345.0F;

Tensor Random(at::IntArrayRef sizes) { return at::randn(sizes, at::kFloat); }
Tensor Wide(const Tensor& t) { return t.to(at::kDouble); }

// Rows of a result with one more row behind them, which nothing may write to.
struct Guarded {
  Guarded(int64_t rows, int64_t width)
      : all(at::full({rows + 1, width}, kUntouched, at::kFloat)), rows(rows) {}
  float* data() { return all.mutable_data_ptr<float>(); }
  Tensor result() const {
    EXPECT_TRUE(all.narrow(0, rows, 1).eq(kUntouched).all().item<bool>());
    return all.narrow(0, 0, rows);
  }
  Tensor all;
  int64_t rows;
};

void ExpectClose(const Tensor& ours, const Tensor& expected, double tolerance) {
  ASSERT_EQ(ours.sizes(), expected.sizes());
  if (ours.numel() == 0) return;
  const double error = (Wide(ours) - expected).abs().max().item<double>();
  EXPECT_LE(error, tolerance * (1 + expected.abs().max().item<double>()));
}

class CpuKernelsTest : public testing::TestWithParam<const char*> {
 protected:
  CpuKernelsTest() { at::manual_seed(7); }
  // A processor with AVX-512 has AVX2 as well.
  void SetUp() override {
    const std::string here = at::get_cpu_capability();
    if (here != GetParam() && here != "AVX512") GTEST_SKIP() << "this processor has " << here;
    kernels_ = CpuKernelsFor(GetParam());
    ASSERT_NE(kernels_, nullptr);
  }

  Tensor Panels(const Tensor& weight_OI) const {
    Tensor panels =
        at::full({PanelElements(*kernels_, weight_OI.size(0), weight_OI.size(1))}, kUntouched);
    kernels_->pack(weight_OI.const_data_ptr<float>(), weight_OI.stride(0), weight_OI.stride(1),
                   weight_OI.size(0), weight_OI.size(1), panels.mutable_data_ptr<float>());
    return panels;
  }

  const CpuKernels* kernels_ = nullptr;
};

struct Product {
  Product(const CpuKernels& kernels, const Tensor& panels, int64_t rows, int64_t in, int64_t out)
      : x(Random({rows, in})), bias(Random({out})), gate(Random({out})), y(rows, out) {
    args = {.x = x.const_data_ptr<float>(),
            .panels = panels.const_data_ptr<float>(),
            .bias = bias.const_data_ptr<float>(),
            .y = y.data(),
            .rows = rows,
            .in = in,
            .out = out};
    multiply = kernels.multiply;
  }
  Tensor Run(CpuEpilogue epilogue) {
    multiply(args, epilogue);
    return y.result().clone();
  }
  Tensor x, bias, gate;
  Guarded y;
  CpuGemmArgs args;
  void (*multiply)(const CpuGemmArgs&, CpuEpilogue);
};

TEST_P(CpuKernelsTest, ProductsOfAwkwardShapesEqualDoublePrecision) {
  for (const int64_t rows : {0, 1, 5, 13, 14, 15, 83, 300}) {
    for (const auto& [in, out] : {std::tuple(1, 1), std::tuple(7, 16), std::tuple(224, 31),
                                  std::tuple(33, 33), std::tuple(900, 70), std::tuple(0, 40)}) {
      SCOPED_TRACE(testing::Message() << rows << " x " << in << " x " << out);
      const Tensor weight = Random({out, in});
      const Tensor panels = Panels(weight);
      Product product(*kernels_, panels, rows, in, out);
      const Tensor plain = at::matmul(Wide(product.x), Wide(weight).t());
      const Tensor biased = plain + Wide(product.bias);
      ExpectClose(product.Run(CpuEpilogue::kBias), biased, 3e-6);
      ExpectClose(product.Run(CpuEpilogue::kBiasGelu), at::gelu(biased, "tanh"), 3e-6);
      product.args.bias = nullptr;
      ExpectClose(product.Run(CpuEpilogue::kBias), plain, 3e-6);
      product.args.bias = product.bias.const_data_ptr<float>();
      const Tensor residual = Random({rows, out});
      product.args.residual = residual.const_data_ptr<float>();
      ExpectClose(product.Run(CpuEpilogue::kBiasResidual), Wide(residual) + biased, 3e-6);
      product.args.gate = product.gate.const_data_ptr<float>();
      ExpectClose(product.Run(CpuEpilogue::kBiasResidual),
                  Wide(residual) + Wide(product.gate) * biased, 3e-6);
      product.y.result().copy_(residual);
      product.args.residual = product.args.y;
      ExpectClose(product.Run(CpuEpilogue::kBiasResidual),
                  Wide(residual) + Wide(product.gate) * biased, 3e-6);
    }
  }
}

TEST_P(CpuKernelsTest, APartOfTheRowsIsTheSameToTheBit) {
  constexpr int64_t kRows = 61;
  constexpr int64_t kIn = 500;
  constexpr int64_t kOut = 75;
  const Tensor panels = Panels(Random({kOut, kIn}));
  Product whole(*kernels_, panels, kRows, kIn, kOut);
  const Tensor expected = whole.Run(CpuEpilogue::kBiasGelu);
  for (int64_t begin = 0; begin < kRows; begin += 9) {
    for (const int64_t rows : {int64_t{1}, int64_t{6}, kRows - begin}) {
      if (begin + rows > kRows) continue;
      Guarded part(rows, kOut);
      CpuGemmArgs args = whole.args;
      args.x += begin * kIn;
      args.y = part.data();
      args.rows = rows;
      kernels_->multiply(args, CpuEpilogue::kBiasGelu);
      EXPECT_TRUE(at::equal(part.result(), expected.narrow(0, begin, rows)));
    }
  }
}

TEST_P(CpuKernelsTest, PanelsFillUpWithZerosAndTakeRowsApart) {
  const Tensor wide = Random({kernels_->panel + 1, 9});
  const Tensor weight = wide.narrow(1, 0, 3);
  const Tensor panels = Panels(weight).view({2, 3, kernels_->panel});
  EXPECT_TRUE(at::equal(panels[0], weight.narrow(0, 0, kernels_->panel).t()));
  EXPECT_TRUE(at::equal(panels[1].select(1, 0), weight[kernels_->panel]));
  EXPECT_TRUE(panels[1].narrow(1, 1, kernels_->panel - 1).eq(0).all().item<bool>());
}

TEST_P(CpuKernelsTest, NormModulateEqualsDoublePrecision) {
  for (const int64_t rows : {0, 1, 17}) {
    for (const int64_t width : {1, 15, 16, 49, 224, 1152}) {
      // A mean far from 0 shows cancellation.
      const Tensor x = Random({rows, width}) + 100;
      const Tensor scale = Random({width});
      const Tensor shift = Random({width});
      Guarded y(rows, width);
      kernels_->norm_modulate({.x = x.const_data_ptr<float>(),
                               .scale = scale.const_data_ptr<float>(),
                               .shift = shift.const_data_ptr<float>(),
                               .y = y.data(),
                               .rows = rows,
                               .width = width,
                               .eps = 1e-6F});
      ExpectClose(y.result(), at::layer_norm(Wide(x), {width}, Wide(scale), Wide(shift), 1e-6),
                  width == 1 ? 1e-6 : 3e-5);
    }
  }
}

TEST_P(CpuKernelsTest, ProductsOfRowsApartEqualThoseOfDenseRows) {
  const Tensor weight = Random({50, 21});
  const Tensor wide = Random({40, 60});
  const Tensor x = wide.narrow(1, 7, 21);
  const Tensor panels = Panels(weight);
  Tensor y = at::full({40, 90}, kUntouched, at::kFloat);
  CpuGemmArgs args = {.panels = panels.const_data_ptr<float>(), .rows = 40, .in = 21, .out = 50};
  args.x = x.const_data_ptr<float>();
  args.x_stride = 60;
  args.y = y.mutable_data_ptr<float>() + 30;
  args.y_stride = 90;
  kernels_->multiply(args, CpuEpilogue::kBias);
  ExpectClose(y.narrow(1, 30, 50), at::matmul(Wide(x), Wide(weight).t()), 1e-6);
  EXPECT_TRUE(y.narrow(1, 0, 30).eq(kUntouched).all().item<bool>());
  EXPECT_TRUE(y.narrow(1, 80, 10).eq(kUntouched).all().item<bool>());
}

TEST_P(CpuKernelsTest, SoftmaxEqualsDoublePrecisionAndGivesTheMaskedExactlyNothing) {
  constexpr int64_t kRows = 23;
  for (const int64_t length : {1, 7, 16, 32, 45}) {
    const Tensor all = Random({kRows, length + 3}) * 20;
    const Tensor behind = all.narrow(1, length, 3).clone();
    Tensor x = all.narrow(1, 0, length);
    if (length > 1) x.select(1, length - 1).fill_(-10000);
    const Tensor scores = Wide(x) * 0.7F;
    Tensor lse = at::empty({kRows}, at::kFloat);
    kernels_->softmax({.x = x.mutable_data_ptr<float>(),
                       .rows = kRows,
                       .length = length,
                       .stride = length + 3,
                       .scale = 0.7F,
                       .lse = lse.mutable_data_ptr<float>()});
    ExpectClose(x, at::softmax(scores, -1), 2e-6);
    ExpectClose(lse, at::logsumexp(scores, {-1}), 1e-6);
    EXPECT_TRUE(at::equal(all.narrow(1, length, 3), behind));
    if (length > 1) {
      EXPECT_TRUE(x.select(1, length - 1).eq(0).all().item<bool>());
    }
  }
}

TEST_P(CpuKernelsTest, SoftmaxOfHugeScoresIsFinite) {
  Tensor x = at::full({1, 20}, -3e30F, at::kFloat);
  x[0][3] = 3e30F;
  kernels_->softmax({.x = x.mutable_data_ptr<float>(), .rows = 1, .length = 20, .stride = 20});
  EXPECT_EQ(x.sum().item<float>(), 1.0F);
  EXPECT_EQ(x[0][3].item<float>(), 1.0F);
}

INSTANTIATE_TEST_SUITE_P(Instructions, CpuKernelsTest, testing::Values("AVX512", "AVX2"),
                         [](const auto& capability) { return std::string(capability.param); });

TEST(CpuKernelsForTest, KnowsNoKernelsOfAnotherProcessor) {
  EXPECT_EQ(CpuKernelsFor("DEFAULT"), nullptr);
  EXPECT_EQ(CpuKernelsFor("SVE256"), nullptr);
}

}  // namespace
}  // namespace patchflow
