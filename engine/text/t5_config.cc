#include "engine/text/t5_config.h"

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "engine/weights/json_file.h"

namespace patchflow {
namespace {

// Bounds that a damaged file crosses and no model does.
constexpr JsonFields::Range kWidth{1, 1 << 17};
constexpr JsonFields::Range kCount{1, 1 << 10};
constexpr JsonFields::Range kVocabulary{1, 1 << 24};
constexpr JsonFields::Range kBuckets{4, 1 << 12};
constexpr JsonFields::Range kDistance{2, 1 << 16};

struct ActivationName {
  std::string_view name;
  T5Activation activation;
};
constexpr std::array<ActivationName, 6> kActivations = {{
    {"relu", T5Activation::kRelu},
    {"gelu", T5Activation::kGelu},
    {"gelu_new", T5Activation::kGeluTanh},
    {"gelu_pytorch_tanh", T5Activation::kGeluTanh},
    {"silu", T5Activation::kSilu},
    {"swish", T5Activation::kSilu},
}};

std::optional<T5Activation> ActivationOf(std::string_view name) {
  for (const ActivationName& a : kActivations) {
    if (a.name == name) return a.activation;
  }
  return std::nullopt;
}

void ReadActivation(JsonFields& fields, T5Config& config) {
  constexpr std::string_view kGatedPrefix = "gated-";
  std::string name = fields.StringOr("feed_forward_proj", "relu");
  const bool gated = name.starts_with(kGatedPrefix);
  if (gated) name.erase(0, kGatedPrefix.size());
  if (gated && name == "gelu") name = "gelu_new";
  config.gated = fields.BoolOr("is_gated_act", gated);
  const std::optional<T5Activation> activation =
      ActivationOf(fields.StringOr("dense_act_fn", name));
  if (activation) {
    config.activation = *activation;
  } else {
    fields.Refuse(fields.Has("dense_act_fn") ? "dense_act_fn" : "feed_forward_proj",
                  "which is none of relu, gelu, gelu_new, silu, gated or not");
  }
}

}  // namespace

absl::StatusOr<T5Config> ReadT5Config(const std::filesystem::path& text_encoder_dir) {
  absl::StatusOr<JsonFields> fields = JsonFields::Read(text_encoder_dir / "config.json");
  if (!fields.ok()) return fields.status();
  T5Config config;
  if (fields->String("model_type") != "t5") {
    fields->Refuse("model_type", "only \"t5\" is supported");
    return fields->Finish();
  }
  config.vocabulary = fields->IntOr("vocab_size", 32128, kVocabulary);
  config.width = fields->IntOr("d_model", 512, kWidth);
  config.head_size = fields->IntOr("d_kv", 64, kWidth);
  config.num_heads = fields->IntOr("num_heads", 8, kCount);
  config.feed_forward_width = fields->IntOr("d_ff", 2048, kWidth);
  config.num_blocks = fields->IntOr("num_layers", 6, kCount);
  config.position_buckets = fields->IntOr("relative_attention_num_buckets", 32, kBuckets);
  config.max_distance = fields->IntOr("relative_attention_max_distance", 128, kDistance);
  config.norm_epsilon = fields->DoubleOr("layer_norm_epsilon", 1e-6);
  if (config.max_distance <= config.position_buckets / 4) {
    fields->Fail(absl::StrCat("relative_attention_max_distance ", config.max_distance,
                              " leaves no room for relative_attention_num_buckets ",
                              config.position_buckets));
  }
  ReadActivation(*fields, config);
  if (absl::Status status = fields->Finish(); !status.ok()) return status;
  return config;
}

}  // namespace patchflow
