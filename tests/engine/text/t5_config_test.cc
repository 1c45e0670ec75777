#include "engine/text/t5_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/engine/weights/scratch_dir.h"

namespace patchflow {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

absl::StatusOr<T5Config> Read(json config) {
  const ScratchDir dir;
  config.emplace("model_type", "t5");
  dir.Write("config.json", config.dump());
  return ReadT5Config(dir.path());
}

std::string Error(const json& config) {
  const absl::Status status = Read(config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << config;
  return std::string(status.message());
}

TEST(T5ConfigTest, ReadsTheBundledEncoder) {
  const auto config = ReadT5Config("models/shapes-256/text_encoder");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->vocabulary, 256);
  EXPECT_EQ(config->width, 128);
  EXPECT_EQ(config->head_size, 32);
  EXPECT_EQ(config->num_heads, 4);
  EXPECT_EQ(config->feed_forward_width, 256);
  EXPECT_EQ(config->num_blocks, 4);
  EXPECT_EQ(config->activation, T5Activation::kGeluTanh);
  EXPECT_TRUE(config->gated);
}

TEST(T5ConfigTest, HasTransformersDefaults) {
  const auto config = Read(json::object());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->vocabulary, 32128);
  EXPECT_EQ(config->width, 512);
  EXPECT_EQ(config->head_size, 64);
  EXPECT_EQ(config->num_heads, 8);
  EXPECT_EQ(config->feed_forward_width, 2048);
  EXPECT_EQ(config->num_blocks, 6);
  EXPECT_EQ(config->position_buckets, 32);
  EXPECT_EQ(config->max_distance, 128);
  EXPECT_EQ(config->norm_epsilon, 1e-6);
  EXPECT_EQ(config->activation, T5Activation::kRelu);
  EXPECT_FALSE(config->gated);
}

TEST(T5ConfigTest, KnowsTheActivations) {
  const auto of = [](const json& config) {
    const auto read = Read(config);
    EXPECT_TRUE(read.ok()) << read.status();
    return std::pair(read->activation, read->gated);
  };
  EXPECT_EQ(of({{"feed_forward_proj", "gated-gelu"}}), std::pair(T5Activation::kGeluTanh, true));
  EXPECT_EQ(of({{"feed_forward_proj", "gelu"}}), std::pair(T5Activation::kGelu, false));
  EXPECT_EQ(of({{"feed_forward_proj", "gated-silu"}}), std::pair(T5Activation::kSilu, true));
  EXPECT_EQ(of({{"feed_forward_proj", "relu"}, {"dense_act_fn", "gelu"}, {"is_gated_act", true}}),
            std::pair(T5Activation::kGelu, true));
}

TEST(T5ConfigTest, ReportsEveryWrongField) {
  EXPECT_THAT(Error({{"d_model", 0}, {"num_heads", "8"}, {"num_layers", 1 << 20}}),
              AllOf(HasSubstr("config.json: d_model is 0, not an integer in [1, 131072]"),
                    HasSubstr("num_heads is \"8\""), HasSubstr("num_layers is 1048576")));
  EXPECT_THAT(Error({{"feed_forward_proj", "gated-mish"}}),
              HasSubstr("feed_forward_proj is \"gated-mish\", which is none of relu"));
  EXPECT_THAT(Error({{"relative_attention_max_distance", 8}}),
              HasSubstr("relative_attention_max_distance 8 leaves no room for"));
  EXPECT_THAT(Error({{"relative_attention_num_buckets", 3}}), HasSubstr("is 3, not an integer"));
}

TEST(T5ConfigTest, RefusesOtherArchitectures) {
  EXPECT_THAT(Error({{"model_type", "clip_text_model"}, {"d_model", 0}}),
              HasSubstr("model_type is \"clip_text_model\", only \"t5\" is supported"));
  const ScratchDir dir;
  EXPECT_EQ(ReadT5Config(dir.path()).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace patchflow
