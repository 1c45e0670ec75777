#include "engine/transformer.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

namespace patchflow {
namespace {

using testing::HasSubstr;

TEST(PatchifyTest, OrdersRowInPatchThenColumnThenChannel) {
  const Tensor latents = at::arange(2 * 3 * 4 * 6, at::kFloat).view({2, 3, 4, 6});
  const Tensor x = Patchify(latents, 2);
  ASSERT_EQ(x.sizes(), (std::vector<int64_t>{2, 6, 12}));
  // Token 4 is the patch in row 1, column 1 of the grid of 2 x 3.
  for (int64_t p : {0, 1}) {
    for (int64_t q : {0, 1}) {
      for (int64_t c : {0, 1, 2}) {
        EXPECT_EQ(x[1][4][(p * 2 + q) * 3 + c].item<float>(),
                  latents[1][c][2 + p][2 + q].item<float>());
      }
    }
  }
}

TEST(PatchifyTest, UnpatchifyIsItsInverse) {
  const Tensor latents = at::randn({2, 4, 10, 6});
  for (int patch : {1, 2}) {
    const TokenGrid grid{10 / patch, 6 / patch};
    EXPECT_TRUE(at::equal(Unpatchify(Patchify(latents, patch), grid, patch), latents));
  }
}

TEST(PatchifyTest, RefusesWhatDoesNotDivide) {
  EXPECT_THROW(Patchify(at::zeros({1, 4, 5, 6}), 2), c10::Error);
  EXPECT_THROW(Unpatchify(at::zeros({1, 5, 16}), {2, 3}, 2), c10::Error);
}

TEST(LoadTransformerTest, LoadsByClassName) {
  const auto config = ReadTransformerConfig("models/shapes-256/transformer");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->num_blocks, 8);
  const auto transformer = LoadTransformer("models/shapes-256/transformer", {.blocks = {0, 1}});
  ASSERT_TRUE(transformer.ok()) << transformer.status();
  EXPECT_EQ((*transformer)->blocks().size(), 1);
}

TEST(LoadTransformerTest, RefusesUnknownClassesAndMissingFiles) {
  const auto dir =
      std::filesystem::path(testing::TempDir()) / ("transformer_test_" + std::to_string(getpid()));
  EXPECT_EQ(ReadTransformerConfig(dir).status().code(), absl::StatusCode::kNotFound);
  std::filesystem::create_directories(dir);
  std::ofstream(dir / "config.json") << R"({"_class_name": "FluxTransformer2DModel"})";
  for (const absl::Status& status :
       {LoadTransformer(dir, {}).status(), ReadTransformerConfig(dir).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("_class_name is \"FluxTransformer2DModel\", not one of "
                          "PixArtTransformer2DModel, Transformer2DModel"));
  }
  std::ofstream(dir / "config.json") << "{}";
  EXPECT_THAT(std::string(LoadTransformer(dir, {}).status().message()),
              HasSubstr("_class_name is missing"));
}

}  // namespace
}  // namespace patchflow
