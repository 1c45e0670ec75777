#include "engine/vae/layers.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "engine/vae/decoder_layers.h"
#include "engine/vae/wide_head_attention.h"
#include "tests/engine/vae/vae_testing.h"

namespace patchflow {
namespace {

class LayersTest : public ::testing::TestWithParam<std::string> {
 protected:
  LayersTest() : golden_(ExpectedVae()) {
    vae_ = *ReadVaeArchitecture(VaeDir(GetParam()));
    layers_ = *ReadDecoderLayers(VaeDir(GetParam()), vae_, {});
  }

  Tensor Golden(const std::string& name) const { return golden_.Get(GetParam() + "." + name); }

  // Whole maps.
  DecodeRun RunOf(const Tensor& image_1Chw) {
    return {{neighbours_, moments_, attention_},
            vae_.groups,
            int64_t{1} << 30,
            {0, image_1Chw.size(2) * image_1Chw.size(3)},
            [] {}};
  }

  // The map that diffusers gave, at the right end of a stage, as the layer before leaves it.
  struct Given {
    Stage stage;
    FeatureMap map;
  };
  Given Give(const std::string& name, int64_t pitch) const {
    const Tensor rows_hWC = RowsOf(Golden(name));
    const int64_t h = rows_hWC.size(0);
    const int64_t width = rows_hWC.size(1);
    const Stage stage(at::full({h * width * pitch}, std::numeric_limits<float>::quiet_NaN()), h,
                      width, pitch);
    GroupMoments moments = NoMoments(vae_.groups, at::kCPU);
    const Tensor to_hWC = stage.Right(rows_hWC.size(2));
    StoreRows({.from = rows_hWC, .bias_C = at::zeros({rows_hWC.size(2)}), .to_hWC = to_hWC},
              &moments);
    return {stage, {to_hWC, moments}};
  }

  void ExpectGolden(const FeatureMap& found, const std::string& name) const {
    const Tensor expected = Golden(name);
    EXPECT_LT(RelativeDifference(ImageOf(found.rows_hWC), expected), kTolerance) << name;
    const Tensor groups_GN = expected.view({vae_.groups, -1}).to(at::kDouble);
    const Tensor mean = groups_GN.mean(1);
    EXPECT_EQ(found.moments.count, static_cast<double>(groups_GN.size(1))) << name;
    EXPECT_LT(RelativeDifference(found.moments.mean_BG[0], mean), kTolerance) << name;
    EXPECT_LT(
        RelativeDifference(found.moments.m2_BG[0], (groups_GN - mean.unsqueeze(1)).square().sum(1)),
        kTolerance)
        << name;
  }

  void ExpectResnet(const Resnet& resnet, int64_t pitch, const std::string& from,
                    const std::string& to) {
    const Given given = Give(from, pitch);
    ExpectGolden(RunResnet(resnet, given.map, given.stage, RunOf(Golden(from))), to);
  }

  GoldenFile golden_;
  VaeArchitecture vae_;
  DecoderLayers layers_;
  LocalRows neighbours_;
  LocalMoments moments_;
  LocalWideHead attention_{{}};
};

TEST_P(LayersTest, ConvolutionInEqualsThatOfDiffusers) {
  const Tensor latents = Golden("latents");
  Tensor z_hWc = RowsOf(latents / vae_.config.scaling_factor + vae_.config.shift_factor);
  if (layers_.post_quant) z_hWc = (*layers_.post_quant)(z_hWc);
  const int64_t pitch = layers_.middle_first.pitch();
  const Stage stage(at::empty({z_hWc.size(0) * z_hWc.size(1) * pitch}), z_hWc.size(0),
                    z_hWc.size(1), pitch);
  ExpectGolden(RunConvolutionIn(layers_.conv_in, z_hWc, stage, RunOf(latents)), "conv_in");
}

TEST_P(LayersTest, MiddleBlockEqualsThatOfDiffusers) {
  const int64_t pitch = layers_.middle_first.pitch();
  ExpectResnet(layers_.middle_first, pitch, "conv_in", "middle_first");
  if (!layers_.attention) {
    ExpectResnet(layers_.middle_last, pitch, "middle_first", "middle");
    return;
  }
  const Given given = Give("middle_first", pitch);
  ExpectGolden(RunAttention(*layers_.attention, given.map, RunOf(Golden("middle_first"))),
               "attention");
  ExpectResnet(layers_.middle_last, pitch, "attention", "middle");
}

TEST_P(LayersTest, UpBlocksEqualThoseOfDiffusers) {
  std::string from = "middle";
  for (size_t i = 0; i < layers_.up.size(); ++i) {
    const UpBlock& block = layers_.up[i];
    const std::string name = "up." + std::to_string(i);
    ExpectResnet(block.resnets.front(), block.pitch(), from, name + ".first");
    if (block.resnets.size() == 2) {
      ExpectResnet(block.resnets.back(), block.pitch(), name + ".first", name + ".last");
    }
    if (block.upsampler) {
      const Given given = Give(name + ".last", block.pitch());
      const Tensor expected = Golden(name);
      const int64_t pitch = layers_.up[i + 1].pitch();
      const Stage to(at::empty({expected.size(2) * expected.size(3) * pitch}), expected.size(2),
                     expected.size(3), pitch);
      ExpectGolden(RunUpsampler(*block.upsampler, given.map, to, RunOf(Golden(name + ".last"))),
                   name);
    }
    from = name;
  }
}

TEST_P(LayersTest, ConvolutionOutEqualsThatOfDiffusers) {
  const std::string from = "up." + std::to_string(layers_.up.size() - 1);
  const Given given = Give(from, layers_.up.back().pitch());
  const Tensor pixels_hWO = at::empty(RowsOf(Golden("pixels")).sizes());
  RunConvolutionOut(layers_.norm_out, layers_.conv_out, given.map, pixels_hWO, RunOf(Golden(from)));
  EXPECT_LT(RelativeDifference(ImageOf(pixels_hWO), Golden("pixels")), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Variants, LayersTest,
                         ::testing::Values("tiny", "narrowing", "widening", "flux", "no_attention"),
                         [](const auto& info) { return info.param; });

// An upsampler fills the storage that its own input lies at the end of.
TEST(UpsamplerTest, MayOverwriteItsInput) {
  at::manual_seed(1);
  for (const int64_t h : {1, 2, 3, 8, 13}) {
    constexpr int64_t kChannels = 4;
    constexpr int64_t kWidth = 3;
    const PhaseConvolution conv{PhaseWeights(at::randn({kChannels, kChannels, 3, 3}))
                                    .contiguous(at::MemoryFormat::ChannelsLast),
                                at::randn({kChannels})};
    const Tensor x_hWC = at::randn({h, kWidth, kChannels});
    LocalRows neighbours;
    LocalMoments moments;
    LocalAttention attention;
    // The tightest there is: a storage of the input's pitch, four times as many pixels.
    for (const int64_t in_pitch : {kChannels, 4 * kChannels}) {
      const Tensor storage = at::full({4 * h * kWidth * kChannels}, 7.0F);
      const Stage from(storage, h, kWidth, in_pitch);
      const Stage to(storage, 2 * h, 2 * kWidth, kChannels);
      from.Right(kChannels).copy_(x_hWC);
      const DecodeRun one_row_slabs{
          {neighbours, moments, attention},
          2,
          CostOf(conv, kWidth, 4).fixed_bytes + CostOf(conv, kWidth, 4).row_bytes,
          {},
          [] {}};
      const FeatureMap found = RunUpsampler(conv, {from.Right(kChannels), {}}, to, one_row_slabs);
      const Stage apart(at::empty({4 * h * kWidth * kChannels}), 2 * h, 2 * kWidth, kChannels);
      const FeatureMap expected = RunUpsampler(conv, {x_hWC, {}}, apart, one_row_slabs);
      EXPECT_TRUE(at::equal(found.rows_hWC, expected.rows_hWC)) << h << " rows, pitch " << in_pitch;
    }
  }
}

}  // namespace
}  // namespace patchflow
