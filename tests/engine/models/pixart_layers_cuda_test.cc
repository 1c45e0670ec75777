#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>

#include "engine/device.h"
#include "engine/models/pixart_layers.h"
#include "tests/engine/models/layer_pair.h"

namespace patchflow {
namespace {

constexpr int64_t kWidth = 1152;
constexpr double kEps = 1e-6;
constexpr double kTolerance = 6e-3;  // Of a product rounded to bfloat16, at most twice.
const at::Device kGpu(at::kCUDA, 0);

Tensor Random(at::IntArrayRef sizes) { return at::randn(sizes, kGpu).to(at::kBFloat16); }

struct Layer : LayerPair {
  Layer(int64_t out, int64_t in, bool with_bias = true)
      : LayerPair{Random({out, in}) * 0.03, with_bias ? Random({out}) : Tensor()} {}
};

class PixArtLayersCudaTest : public testing::Test {
 protected:
  PixArtLayersCudaTest() { at::manual_seed(51); }

  void ExpectClose(const Tensor& ours, const Tensor& reference) {
    EXPECT_EQ(ours.scalar_type(), at::kBFloat16);
    const double error = ((Wide(ours) - reference).norm() / reference.norm()).item<double>();
    EXPECT_LT(error, kTolerance);
  }
  // The modulation in the dtype that the layers take it in.
  Tensor Vector() { return at::randn({kWidth}, kGpu).to(ours_->modulation_dtype()); }

  DeviceThread thread_{DeviceThread::MakeStream(kGpu)};
  std::unique_ptr<PixArtLayers> ours_ = MakeLayers({kGpu, at::kBFloat16, kEps, kWidth, 8});
  std::unique_ptr<PixArtLayers> reference_ = MakeAtenLayers(at::kDouble, kEps);
};

TEST_F(PixArtLayersCudaTest, NormedEqualsDoublePrecision) {
  const Tensor h = Random({2, 77, kWidth});
  const Tensor scale = Vector();
  const Tensor shift = Vector();
  ExpectClose(ours_->Normed(h, scale, shift),
              reference_->Normed(Wide(h), Wide(scale), Wide(shift)));
}

TEST_F(PixArtLayersCudaTest, ProductsEqualDoublePrecision) {
  for (const bool with_bias : {true, false}) {
    const Layer layer(3 * kWidth, kWidth, with_bias);
    const Tensor x = Random({2, 77, kWidth});
    ExpectClose(ours_->Product(layer.Plain(), x), reference_->Product(layer.PlainWide(), Wide(x)));
  }
}

TEST_F(PixArtLayersCudaTest, GeluEqualsDoublePrecision) {
  const Layer layer(4 * kWidth, kWidth);
  const Tensor x = Random({2, 130, kWidth});
  ExpectClose(ours_->Gelu(layer.Plain(), x), reference_->Gelu(layer.PlainWide(), Wide(x)));
}

TEST_F(PixArtLayersCudaTest, ResidualsEqualDoublePrecision) {
  LocalSum alone;
  DoublingSum two;
  const Layer layer(kWidth, 4 * kWidth);
  const Tensor x = Random({2, 99, 4 * kWidth});
  const Tensor h = Random({2, 99, kWidth});
  const Tensor before = h.clone();
  for (const bool whole : {true, false}) {
    PartialSum& sum = whole ? static_cast<PartialSum&>(alone) : two;
    for (const Tensor& gate : {Vector(), Tensor()}) {
      const Tensor expected = reference_->Residual(Wide(h), layer.RowsWide(whole), Wide(x),
                                                   Wide(gate), sum, SumInto::kNew);
      ExpectClose(ours_->Residual(h, layer.Rows(whole), x, gate, sum, SumInto::kNew), expected);
      EXPECT_TRUE(at::equal(h, before));
      const Tensor own = h.clone();
      const Tensor result = ours_->Residual(own, layer.Rows(whole), x, gate, sum, SumInto::kSame);
      EXPECT_EQ(result.data_ptr(), own.data_ptr());
      ExpectClose(result, expected);
    }
  }
}

TEST_F(PixArtLayersCudaTest, NoTokensAreNoWork) {
  LocalSum alone;
  const Layer layer(kWidth, kWidth);
  const Tensor none = Random({2, 0, kWidth});
  EXPECT_EQ(ours_->Normed(none, Vector(), Vector()).numel(), 0);
  EXPECT_EQ(ours_->Product(layer.Plain(), none).numel(), 0);
  EXPECT_EQ(ours_->Gelu(layer.Plain(), none).numel(), 0);
  EXPECT_EQ(ours_->Residual(none, layer.Rows(true), none, Vector(), alone, SumInto::kNew).numel(),
            0);
}

// A tensor shard beyond the heads adds nothing but the bias.
TEST_F(PixArtLayersCudaTest, NoFeaturesAddTheBiasAlone) {
  DoublingSum two;
  const Layer layer(kWidth, 0);
  const Tensor h = Random({2, 10, kWidth});
  const Tensor x = Random({2, 10, 0});
  const Tensor gate = Vector();
  ExpectClose(ours_->Residual(h, layer.Rows(false), x, gate, two, SumInto::kNew),
              Wide(h) + Wide(gate) * Wide(layer.bias_O));
}

}  // namespace
}  // namespace patchflow
