#include "engine/models/pixart_layers_fp8.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>

#include "engine/device.h"
#include "tests/engine/models/layer_pair.h"

namespace patchflow {
namespace {

constexpr int64_t kWidth = 1152;
constexpr double kEps = 1e-6;
// 4 bits of a number are off by 2.6 % of it in the mean square, up to 6.2 %; products of two of
// them by 3.7 %, and so are sums of many. A product in bfloat16 is below the least.
constexpr double kLeastError = 1e-2;
constexpr double kTolerance = 4.5e-2;
const at::Device kGpu(at::kCUDA, 0);

Tensor Random(at::IntArrayRef sizes) { return at::randn(sizes, kGpu).to(at::kBFloat16); }

struct Layer : LayerPair {
  Layer(int64_t out, int64_t in, bool with_bias = true)
      : LayerPair{Random({out, in}) / std::sqrt(static_cast<double>(in)),
                  with_bias ? Random({out}) * 0.1 : Tensor()} {}
};

class PixArtLayersFp8Test : public testing::Test {
 protected:
  PixArtLayersFp8Test() { at::manual_seed(81); }

  Linear Packed(const Layer& layer) const {
    Linear packed = layer.Plain();
    ours_->Pack(packed, Original::kDrop);
    EXPECT_FALSE(packed.weight_OI.defined());
    return packed;
  }
  RowLinear PackedRows(const Layer& layer, bool whole) const {
    RowLinear packed = layer.Rows(whole);
    ours_->Pack(packed, Original::kDrop);
    return packed;
  }
  static double ErrorOf(const Tensor& ours, const Tensor& reference) {
    EXPECT_EQ(ours.scalar_type(), at::kBFloat16);
    return ((Wide(ours) - reference).norm() / reference.norm()).item<double>();
  }
  // Of a product, as far off as 8 bits are: no more, and no less.
  static void ExpectOfEightBits(const Tensor& ours, const Tensor& reference,
                                double tolerance = kTolerance) {
    const double error = ErrorOf(ours, reference);
    RecordProperty("error", std::to_string(error));
    EXPECT_LT(error, tolerance);
    EXPECT_GT(error, kLeastError);
  }
  Modulation RandomModulation() const {
    const auto vector = [] { return at::randn({kWidth}, kGpu); };
    return {.scale_E = vector(), .shift_E = vector(), .gate_E = vector()};
  }
  static Modulation WideModulation(const Modulation& m) {
    return {.scale_E = Wide(m.scale_E), .shift_E = Wide(m.shift_E), .gate_E = Wide(m.gate_E)};
  }

  DeviceThread thread_{DeviceThread::MakeStream(kGpu)};
  std::unique_ptr<PixArtLayers> ours_ = MakeLayers({kGpu, at::kFloat8_e4m3fn, kEps, kWidth, 16});
  std::unique_ptr<PixArtLayers> bfloat16_ = MakeLayers({kGpu, at::kBFloat16, kEps, kWidth, 16});
  std::unique_ptr<PixArtLayers> reference_ = MakeAtenLayers(at::kDouble, kEps);
};

TEST_F(PixArtLayersFp8Test, ProductsAreOfEightBits) {
  for (const bool with_bias : {true, false}) {
    const Layer layer(3 * kWidth, kWidth, with_bias);
    const Tensor x = Random({2, 77, kWidth});
    ExpectOfEightBits(ours_->Product(Packed(layer), x),
                      reference_->Product(layer.PlainWide(), Wide(x)));
  }
}

TEST_F(PixArtLayersFp8Test, NormedProductsAreOfEightBits) {
  const Layer layer(3 * kWidth, kWidth);
  const Tensor h = Random({2, 77, kWidth}) * 3 + 1;
  const Modulation modulation = RandomModulation();
  ExpectOfEightBits(
      ours_->NormedProduct(Packed(layer), h, modulation),
      reference_->NormedProduct(layer.PlainWide(), Wide(h), WideModulation(modulation)));
}

TEST_F(PixArtLayersFp8Test, GeluIsOfEightBits) {
  const Layer layer(4 * kWidth, kWidth);
  const Tensor x = Random({2, 130, kWidth});
  ExpectOfEightBits(ours_->Gelu(Packed(layer), x), reference_->Gelu(layer.PlainWide(), Wide(x)));
}

// What is added to h: whole, and as a rank of two, whose sum is rounded once more.
TEST_F(PixArtLayersFp8Test, ResidualsAreOfEightBits) {
  LocalSum alone;
  DoublingSum two;
  const Layer layer(kWidth, 4 * kWidth);
  const Tensor x = Random({2, 99, 4 * kWidth});
  const Tensor h = at::zeros({2, 99, kWidth}, x.options());
  for (const bool whole : {true, false}) {
    PartialSum& sum = whole ? static_cast<PartialSum&>(alone) : two;
    const RowLinear packed = PackedRows(layer, whole);
    for (const Tensor& gate : {at::randn({kWidth}, kGpu), Tensor()}) {
      const Tensor expected = reference_->Residual(Wide(h), layer.RowsWide(whole), Wide(x),
                                                   Wide(gate), sum, SumInto::kNew);
      ExpectOfEightBits(ours_->Residual(h, packed, x, gate, sum, SumInto::kNew), expected);
      EXPECT_EQ(h.count_nonzero().item<int64_t>(), 0);
      const Tensor own = h.clone();
      const Tensor result = ours_->Residual(own, packed, x, gate, sum, SumInto::kSame);
      EXPECT_EQ(result.data_ptr(), own.data_ptr());
      ExpectOfEightBits(result, expected);
    }
  }
}

// Two products after each other, each with its own rounding.
TEST_F(PixArtLayersFp8Test, AnMlpIsOfEightBits) {
  LocalSum alone;
  const Layer up(4 * kWidth, kWidth);
  const Layer down(kWidth, 4 * kWidth);
  const Tensor h = Random({2, 77, kWidth});
  Modulation modulation = RandomModulation();
  const MlpLayers packed{Packed(up), PackedRows(down, true)};
  const MlpLayers wide{up.PlainWide(), down.RowsWide(true)};
  const Tensor expected =
      reference_->Mlp(Wide(h), wide, WideModulation(modulation), alone) - Wide(h);
  const Tensor own = h.clone();
  const Tensor added = Wide(ours_->Mlp(own, packed, modulation, alone)) - Wide(h);
  const double error = ((added - expected).norm() / expected.norm()).item<double>();
  EXPECT_LT(error, 2 * kTolerance);
  EXPECT_GT(error, kLeastError);
}

// The caption's, and those of a shard without features.
TEST_F(PixArtLayersFp8Test, LayersThatWereNotPackedAreBfloat16ToTheBit) {
  DoublingSum two;
  const Layer layer(kWidth, kWidth);
  const Tensor x = Random({2, 50, kWidth});
  EXPECT_TRUE(at::equal(ours_->Product(layer.Plain(), x), bfloat16_->Product(layer.Plain(), x)));
  EXPECT_TRUE(at::equal(ours_->Gelu(layer.Plain(), x), bfloat16_->Gelu(layer.Plain(), x)));
  const Layer empty(kWidth, 0);
  const Tensor none = Random({2, 50, 0});
  const Tensor gate = at::randn({kWidth}, kGpu);
  EXPECT_TRUE(
      at::equal(ours_->Residual(x, PackedRows(empty, false), none, gate, two, SumInto::kNew),
                bfloat16_->Residual(x, empty.Rows(false), none, gate, two, SumInto::kNew)));
}

TEST_F(PixArtLayersFp8Test, NoTokensAreNoWork) {
  LocalSum alone;
  const Layer layer(kWidth, kWidth);
  const Tensor none = Random({2, 0, kWidth});
  EXPECT_EQ(ours_->Product(Packed(layer), none).numel(), 0);
  EXPECT_EQ(ours_->Gelu(Packed(layer), none).numel(), 0);
  EXPECT_EQ(ours_->NormedProduct(Packed(layer), none, RandomModulation()).numel(), 0);
  for (const bool whole : {true, false}) {
    EXPECT_EQ(
        ours_->Residual(none, PackedRows(layer, whole), none, {}, alone, SumInto::kNew).numel(), 0);
  }
}

TEST_F(PixArtLayersFp8Test, SharesOfOddFeaturesAreRefusedInWords) {
  const auto said = [](int64_t width, int64_t grain) {
    return std::string(CheckLayers({kGpu, at::kFloat8_e4m3fn, kEps, width, grain}).message());
  };
  EXPECT_EQ(said(1152, 16), "");
  EXPECT_THAT(said(1160, 8), testing::HasSubstr("width, 1160"));
  EXPECT_THAT(said(4096, 16), testing::HasSubstr("width, 4096"));
  EXPECT_THAT(said(1152, 8), testing::HasSubstr("multiples of 8"));
}

}  // namespace
}  // namespace patchflow
