#include "engine/vae/decoder.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/engine/vae/vae_testing.h"
#include "tests/engine/weights/scratch_dir.h"

namespace patchflow {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class DecoderParity : public ::testing::TestWithParam<std::string> {};

TEST_P(DecoderParity, PixelsEqualThoseOfDiffusers) {
  const GoldenFile golden = ExpectedVae();
  const auto decoder = LoadDecoder(GetParam());
  const std::string weights = GetParam() == "old_attention" ? "tiny" : GetParam();
  const Tensor pixels = DecodeWhole(*decoder, golden.Get(weights + ".latents"), {});
  EXPECT_LT(RelativeDifference(pixels, golden.Get(weights + ".pixels")), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Variants, DecoderParity,
                         ::testing::Values("tiny", "old_attention", "narrowing", "widening", "flux",
                                           "no_attention", "bundled"),
                         [](const auto& info) { return info.param; });

// A bug that shows at one height of slabs only would be hidden by the few that one workspace gives.
class DecoderSlabs : public ::testing::TestWithParam<std::tuple<std::string, int>> {};

TEST_P(DecoderSlabs, EqualTheWhole) {
  const auto& [variant, rows] = GetParam();
  const auto whole = LoadDecoder(variant);
  at::manual_seed(3);
  const Tensor latents = at::randn({1, whole->config().latent_channels, rows, 5});
  int whole_tiles = 0;
  const Tensor expected = DecodeWhole(*whole, latents, [&] { ++whole_tiles; });
  int decoded = 0;
  int most_tiles = 0;
  for (int64_t workspace_bytes = 8'000; workspace_bytes < 250'000;
       workspace_bytes += workspace_bytes / 2) {
    VaeOptions options;
    options.workspace_bytes = workspace_bytes;
    int tiles = 0;
    Tensor pixels;
    try {
      pixels = DecodeWhole(*LoadDecoder(variant, options), latents, [&] { ++tiles; });
    } catch (const c10::Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("workspace_bytes"));
      EXPECT_EQ(decoded, 0) << workspace_bytes << " bytes do not hold a row, though fewer did";
      continue;
    }
    ++decoded;
    most_tiles = std::max(most_tiles, tiles);
    // Not to the bit: statistics are merged slab by slab, and matrix kernels cut differently.
    EXPECT_LT(RelativeDifference(pixels, expected), kTolerance) << workspace_bytes;
  }
  EXPECT_GT(decoded, 3);
  EXPECT_GT(most_tiles, whole_tiles);
}

INSTANTIATE_TEST_SUITE_P(Heights, DecoderSlabs,
                         ::testing::Combine(::testing::Values("tiny", "narrowing", "flux"),
                                            ::testing::Values(2, 3, 7, 16)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" +
                                  std::to_string(std::get<1>(info.param));
                         });

TEST(VaeDecoderTest, DecodesEachImageOfABatch) {
  const auto decoder = LoadDecoder("tiny");
  at::manual_seed(5);
  const Tensor latents = at::randn({3, 4, 4, 6});
  const Tensor pixels = DecodeWhole(*decoder, latents, {});
  EXPECT_EQ(pixels.sizes(), at::IntArrayRef({3, 3, 16, 24}));
  for (int n = 0; n < 3; ++n) {
    EXPECT_TRUE(
        at::equal(pixels.narrow(0, n, 1), DecodeWhole(*decoder, latents.narrow(0, n, 1), {})));
  }
}

TEST(VaeDecoderTest, TwoDecodesAreEqualToTheBit) {
  const auto decoder = LoadDecoder("bundled");
  at::manual_seed(5);
  const Tensor latents = at::randn({1, 4, 8, 8});
  EXPECT_TRUE(at::equal(DecodeWhole(*decoder, latents, {}), DecodeWhole(*decoder, latents, {})));
}

TEST(VaeDecoderTest, StopsWhereTileDoneThrows) {
  const auto decoder = LoadDecoder("tiny");
  int tiles = 0;
  const auto stop = [&] {
    if (++tiles == 3) throw std::runtime_error("stop");
  };
  EXPECT_THROW(DecodeWhole(*decoder, at::zeros({1, 4, 4, 4}), stop), std::runtime_error);
  EXPECT_EQ(tiles, 3);
}

TEST(VaeDecoderTest, NamesTheWorkspaceThatIsTooSmall) {
  VaeOptions options;
  options.workspace_bytes = 1000;
  try {
    DecodeWhole(*LoadDecoder("tiny", options), at::zeros({1, 4, 4, 4}), {});
    FAIL() << "decoded";
  } catch (const c10::Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("workspace_bytes is 1000: a slab of one row needs"));
  }
}

TEST(VaeDecoderTest, RefusesLatentsOfAnotherShape) {
  const auto decoder = LoadDecoder("tiny");
  EXPECT_THROW(DecodeWhole(*decoder, at::zeros({1, 16, 4, 4}), {}), c10::Error);
  EXPECT_THROW(DecodeWhole(*decoder, at::zeros({4, 4, 4}), {}), c10::Error);
  EXPECT_THROW(DecodeWhole(*decoder, at::zeros({1, 4, 0, 4}), {}), c10::Error);
}

TEST(VaeDecoderTest, CountsItsWeights) {
  EXPECT_GT(LoadDecoder("tiny")->parameter_bytes(), 4 * 10'000);
  EXPECT_LT(LoadDecoder("tiny")->parameter_bytes(), 4 * 50'000);
}

TEST(VaeDecoderTest, Float16TurnsToFloat32WhereItOverflows) {
  VaeOptions options;
  options.read.dtype = at::kHalf;
  EXPECT_EQ(LoadDecoder("tiny", options)->options().read.dtype, at::kFloat);
  const auto refused = LoadVaeDecoder(VaeDir("widening"), options);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.status().message(), AllOf(HasSubstr("Half"), HasSubstr("cpu")));
}

TEST(VaeDecoderTest, NamesWeightsThatAreNotOfTheConfig) {
  const auto damaged = [](const std::string& from, const std::string& to) {
    const ScratchDir dir;
    std::ifstream file(VaeDir("tiny") / "config.json");
    std::string config((std::istreambuf_iterator<char>(file)), {});
    config.replace(config.find(from), from.size(), to);
    dir.Write("config.json", config);
    std::filesystem::copy(VaeDir("tiny") / "diffusion_pytorch_model.safetensors", dir.path());
    return LoadVaeDecoder(dir.path(), {}).status();
  };
  const absl::Status deeper = damaged("\"layers_per_block\": 1", "\"layers_per_block\": 2");
  EXPECT_EQ(deeper.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(deeper.message(), HasSubstr("missing: decoder.up_blocks.0.resnets.2.norm1.weight"));
  const absl::Status lean =
      damaged("\"use_post_quant_conv\": true", "\"use_post_quant_conv\": false");
  EXPECT_THAT(lean.message(), HasSubstr("unread: post_quant_conv.weight"));
  const absl::Status wide = damaged("\"latent_channels\": 4", "\"latent_channels\": 8");
  EXPECT_THAT(wide.message(), HasSubstr("misshapen: decoder.conv_in.weight"));
}

}  // namespace
}  // namespace patchflow
