#include "engine/models/pixart_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/weights/json_file.h"

namespace patchflow {
namespace {

constexpr int64_t kPixelsPerLatent = 8;
constexpr int64_t kSizeWithConditions = 128;
constexpr int kAlphaTextTokens = 120;
constexpr int kSigmaTextTokens = 300;

// Bounds that a damaged file crosses and no model does.
constexpr JsonFields::Range kCount{1, 1 << 10};
constexpr JsonFields::Range kWidth{1, 1 << 16};

void RefuseWhatIsNotDone(JsonFields& fields) {
  if (fields.String("_class_name") == "Transformer2DModel" && !fields.Has("norm_type")) {
    fields.Fail("norm_type is absent: a Transformer2DModel without it is not a PixArt");
  }
  fields.Expect("norm_type", "ada_norm_single");
  fields.Expect("activation_fn", "gelu-approximate");
  fields.Expect("attention_type", "default");
  for (const char* flag : {"norm_elementwise_affine", "upcast_attention", "only_cross_attention",
                           "double_self_attention"}) {
    fields.Expect(flag, false);
  }
  if (fields.Find("num_vector_embeds") != nullptr) {
    fields.Refuse("num_vector_embeds", "not null");
  }
}

void CheckWidths(const PixArtConfig& config, JsonFields& fields) {
  const TransformerConfig& common = config.common;
  const int64_t width = common.width();
  const std::string product =
      absl::StrCat("num_attention_heads ", common.num_heads, " x attention_head_dim ",
                   common.head_size, " = ", width);
  if (width % 4 != 0) {
    fields.Fail(absl::StrCat(product, ", which 4 does not divide: no room for the positions"));
  }
  if (config.size_conditions && width % 3 != 0) {
    fields.Fail(absl::StrCat(product, ", which 3 does not divide, with use_additional_conditions"));
  }
  if (fields.IntOr("cross_attention_dim", width, kWidth) != width) {
    fields.Refuse("cross_attention_dim", absl::StrCat("not ", product));
  }
  if (config.output_channels != common.latent_channels &&
      config.output_channels != 2 * common.latent_channels) {
    fields.Refuse("out_channels",
                  absl::StrCat("neither in_channels ", common.latent_channels, " nor twice that"));
  }
}

absl::StatusOr<int> MaxTextTokens(const std::filesystem::path& model_dir) {
  absl::StatusOr<JsonFields> index = JsonFields::Read(model_dir / "model_index.json");
  if (absl::IsNotFound(index.status())) {
    return kAlphaTextTokens;
  }
  if (!index.ok()) {
    return index.status();
  }
  const std::string pipeline = index->String("_class_name");
  if (pipeline != "PixArtSigmaPipeline" && pipeline != "PixArtAlphaPipeline") {
    index->Refuse("_class_name", "neither PixArtAlphaPipeline nor PixArtSigmaPipeline");
  }
  if (absl::Status status = index->Finish(); !status.ok()) {
    return status;
  }
  return pipeline == "PixArtSigmaPipeline" ? kSigmaTextTokens : kAlphaTextTokens;
}

void ReadShape(JsonFields& fields, PixArtConfig& config) {
  TransformerConfig& common = config.common;
  common.num_blocks = static_cast<int>(fields.IntOr("num_layers", 28, kCount));
  common.num_heads = static_cast<int>(fields.IntOr("num_attention_heads", 16, kCount));
  common.head_size = static_cast<int>(fields.IntOr("attention_head_dim", 72, kCount));
  common.patch_size = static_cast<int>(fields.IntOr("patch_size", 2, {1, 64}));
  common.latent_channels = static_cast<int>(fields.IntOr("in_channels", 4, kCount));
  common.caption_width = static_cast<int>(fields.Int("caption_channels", kWidth));
  const int64_t sample_size = fields.IntOr("sample_size", 128, {common.patch_size, 1 << 14});
  common.default_size_px = static_cast<int>(sample_size * kPixelsPerLatent);
  config.base_grid = sample_size / common.patch_size;
  config.interpolation_scale = fields.DoubleOr(
      "interpolation_scale", static_cast<double>(std::max<int64_t>(sample_size / 64, 1)));
  if (!(config.interpolation_scale > 0)) {
    fields.Refuse("interpolation_scale", "not positive");
  }
  config.size_conditions =
      fields.BoolOr("use_additional_conditions", sample_size == kSizeWithConditions);
  config.output_channels = fields.Has("out_channels") ? fields.Int("out_channels", kCount)
                                                      : int64_t{2} * common.latent_channels;
}

}  // namespace

absl::StatusOr<PixArtConfig> ReadPixArtConfig(const std::filesystem::path& transformer_dir) {
  absl::StatusOr<JsonFields> read = JsonFields::Read(transformer_dir / "config.json");
  if (!read.ok()) {
    return read.status();
  }
  JsonFields& fields = *read;
  PixArtConfig config;
  RefuseWhatIsNotDone(fields);
  ReadShape(fields, config);
  config.attention_bias = fields.BoolOr("attention_bias", true);
  config.norm_eps = fields.DoubleOr("norm_eps", config.norm_eps);
  if (!(config.norm_eps > 0)) {
    fields.Refuse("norm_eps", "not positive");
  }
  CheckWidths(config, fields);
  if (absl::Status status = fields.Finish(); !status.ok()) {
    return status;
  }
  // With one separator at the end, whether or not it was given.
  const auto absolute = std::filesystem::absolute(transformer_dir / "").lexically_normal();
  const absl::StatusOr<int> max_text_tokens = MaxTextTokens(absolute.parent_path().parent_path());
  if (!max_text_tokens.ok()) {
    return max_text_tokens.status();
  }
  config.common.max_text_tokens = *max_text_tokens;
  return config;
}

}  // namespace patchflow
