#include "engine/models/pixart_layers_cpu.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>

#include "engine/attention.h"
#include "engine/attention_cpu.h"
#include "tests/engine/models/layer_pair.h"

namespace patchflow {
namespace {

constexpr int64_t kWidth = 72;
constexpr int64_t kHeads = 3;
constexpr int64_t kHeadSize = 24;
constexpr double kEps = 1e-6;
constexpr double kTolerance = 2e-6;

Tensor Random(at::IntArrayRef sizes) { return at::randn(sizes, at::kFloat); }

struct Layer : LayerPair {
  Layer(int64_t out, int64_t in) : LayerPair{Random({out, in}) * 0.1, Random({out})} {}
};

void ExpectClose(const Tensor& ours, const Tensor& reference) {
  ASSERT_EQ(ours.sizes(), reference.sizes());
  const double error = ((Wide(ours) - reference).norm() / reference.norm()).item<double>();
  EXPECT_LT(error, kTolerance);
}

class PixArtLayersCpuTest : public testing::Test {
 protected:
  void SetUp() override {
    at::manual_seed(52);
    if (CpuKernelsHere() == nullptr) GTEST_SKIP() << "no kernels for " << at::get_cpu_capability();
    ours_ = MakeCpuLayers(*CpuKernelsHere(), kEps);
  }

  template <typename LinearOrRows>
  LinearOrRows Packed(LinearOrRows layer, Original original = Original::kDrop) const {
    ours_->Pack(layer, original);
    EXPECT_EQ(layer.weight_OI.defined(), original == Original::kKeep);
    return layer;
  }
  static Modulation RandomModulation() {
    return {Random({kWidth}), Random({kWidth}), Random({kWidth})};
  }
  static Modulation Wide(const Modulation& m) {
    return {patchflow::Wide(m.scale_E), patchflow::Wide(m.shift_E), patchflow::Wide(m.gate_E)};
  }
  static Tensor Wide(const Tensor& t) { return patchflow::Wide(t); }
  PartialSum& SumFor(bool whole) { return whole ? static_cast<PartialSum&>(alone_) : two_; }

  LocalSum alone_;
  DoublingSum two_;
  std::unique_ptr<PixArtLayers> ours_;
  std::unique_ptr<PixArtLayers> reference_ = MakeAtenLayers(at::kDouble, kEps);
};

TEST_F(PixArtLayersCpuTest, ProductsAndTheirNormsEqualDoublePrecision) {
  const Layer layer(3 * kWidth, kWidth);
  const Linear packed = Packed(layer.Plain());
  const Modulation m = RandomModulation();
  for (const int64_t tokens : {1, 37, 150}) {
    const Tensor h = Random({2, tokens, kWidth});
    ExpectClose(ours_->Normed(h, m.scale_E, m.shift_E),
                reference_->Normed(Wide(h), Wide(m.scale_E), Wide(m.shift_E)));
    ExpectClose(ours_->Product(packed, h), reference_->Product(layer.PlainWide(), Wide(h)));
    ExpectClose(ours_->Gelu(packed, h), reference_->Gelu(layer.PlainWide(), Wide(h)));
    ExpectClose(ours_->NormedProduct(packed, h, m),
                reference_->NormedProduct(layer.PlainWide(), Wide(h), Wide(m)));
  }
}

TEST_F(PixArtLayersCpuTest, ResidualsEqualDoublePrecision) {
  const Layer layer(kWidth, 4 * kWidth);
  const Tensor x = Random({2, 99, 4 * kWidth});
  const Tensor h = Random({2, 99, kWidth});
  const Tensor before = h.clone();
  for (const bool whole : {true, false}) {
    for (const Tensor& gate : {Random({kWidth}), Tensor()}) {
      const Tensor expected = reference_->Residual(Wide(h), layer.RowsWide(whole), Wide(x),
                                                   Wide(gate), SumFor(whole), SumInto::kNew);
      const RowLinear packed = Packed(layer.Rows(whole));
      ExpectClose(ours_->Residual(h, packed, x, gate, SumFor(whole), SumInto::kNew), expected);
      EXPECT_TRUE(at::equal(h, before));
      const Tensor own = h.clone();
      const Tensor result = ours_->Residual(own, packed, x, gate, SumFor(whole), SumInto::kSame);
      EXPECT_EQ(result.data_ptr(), own.data_ptr());
      ExpectClose(result, expected);
    }
  }
}

TEST_F(PixArtLayersCpuTest, MlpEqualsDoublePrecision) {
  const Layer up(4 * kWidth, kWidth);
  const Layer down(kWidth, 4 * kWidth);
  const Modulation m = RandomModulation();
  for (const bool whole : {true, false}) {
    for (const int64_t tokens : {1, 57, 260}) {
      const Tensor h = Random({2, tokens, kWidth});
      const Tensor expected =
          reference_->Mlp(Wide(h), {up.PlainWide(), down.RowsWide(whole)}, Wide(m), SumFor(whole));
      const Tensor own = h.clone();
      const Tensor result =
          ours_->Mlp(own, {Packed(up.Plain()), Packed(down.Rows(whole))}, m, SumFor(whole));
      EXPECT_EQ(result.data_ptr(), own.data_ptr());
      ExpectClose(result, expected);
    }
  }
}

// Against attention as the model writes it, in double precision.
TEST_F(PixArtLayersCpuTest, AttentionToAFoldedTextEqualsAttentionToTheText) {
  const Layer q(kWidth, kWidth);
  const Layer out(kWidth, kWidth);
  for (const bool whole : {true, false}) {
    for (const int64_t tokens : {1, 5, 16}) {
      const Tensor h = Random({2, 130, kWidth});
      const Tensor kv = Random({2, tokens, 2, kHeads, kHeadSize});
      Tensor bias = at::zeros({2, 1, 1, tokens}, at::kFloat);
      if (tokens > 1) bias[0].narrow(-1, 1, tokens - 1).fill_(-10000);
      const Tensor q_BSHD = q.PlainWide()(Wide(h)).view({2, 130, kHeads, kHeadSize});
      const Tensor attended =
          Sdpa(q_BSHD, Wide(kv).select(2, 0), Wide(kv).select(2, 1), Wide(bias));
      const Tensor expected = reference_->Residual(
          Wide(h), out.RowsWide(whole), attended.flatten(2), {}, SumFor(whole), SumInto::kNew);
      const FoldedText text = ours_->Fold(q.Plain(), out.Rows(whole), kv, bias);
      ASSERT_TRUE(text.defined());
      ExpectClose(ours_->AttendFolded(h, text, SumFor(whole)), expected);
    }
  }
}

TEST_F(PixArtLayersCpuTest, ATextOfMoreTokensThanAHeadHasFeaturesIsNotFolded) {
  const Layer layer(kWidth, kWidth);
  const int64_t tokens = kHeadSize + 1;
  EXPECT_FALSE(ours_
                   ->Fold(layer.Plain(), layer.Rows(true),
                          Random({1, tokens, 2, kHeads, kHeadSize}),
                          at::zeros({1, 1, 1, tokens}, at::kFloat))
                   .defined());
}

TEST_F(PixArtLayersCpuTest, NoTokensAreNoWork) {
  const Layer layer(kWidth, kWidth);
  const Tensor none = Random({2, 0, kWidth});
  const Modulation m = RandomModulation();
  const Linear plain = Packed(layer.Plain());
  const RowLinear rows = Packed(layer.Rows(true));
  EXPECT_EQ(ours_->NormedProduct(plain, none, m).numel(), 0);
  EXPECT_EQ(ours_->Residual(none, rows, none, m.gate_E, alone_, SumInto::kNew).numel(), 0);
  EXPECT_EQ(ours_->Mlp(none, {plain, rows}, m, alone_).numel(), 0);
}

// A tensor shard beyond the heads adds nothing but the bias.
TEST_F(PixArtLayersCpuTest, NoFeaturesAddTheBiasAlone) {
  const Layer layer(kWidth, 0);
  const Tensor h = Random({2, 10, kWidth});
  const Tensor gate = Random({kWidth});
  ExpectClose(
      ours_->Residual(h, Packed(layer.Rows(false)), Random({2, 10, 0}), gate, two_, SumInto::kNew),
      Wide(h) + Wide(gate) * Wide(layer.bias_O));
}

}  // namespace
}  // namespace patchflow
