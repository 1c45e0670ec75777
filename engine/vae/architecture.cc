#include "engine/vae/architecture.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/weights/json_file.h"

namespace patchflow {
namespace {

constexpr JsonFields::Range kChannels{.min = 1, .max = 1024};
constexpr JsonFields::Range kLatentChannels{.min = 1, .max = 64};
constexpr JsonFields::Range kLayers{.min = 1, .max = 16};
constexpr int64_t kMostBlocks = 6;
constexpr char kBlockType[] = "UpDecoderBlock2D";

// diffusers' defaults for what is absent.
VaeConfig ReadScales(JsonFields& fields) {
  VaeConfig config;
  config.latent_channels = static_cast<int>(fields.IntOr("latent_channels", 4, kLatentChannels));
  config.scaling_factor = fields.DoubleOr("scaling_factor", 0.18215);
  if (config.scaling_factor == 0) fields.Refuse("scaling_factor", "it must not be 0");
  config.shift_factor = fields.DoubleOr("shift_factor", 0);
  config.force_upcast = fields.BoolOr("force_upcast", true);
  return config;
}

void CheckBlocks(const VaeArchitecture& vae, JsonFields& fields) {
  const auto blocks = static_cast<int64_t>(vae.block_channels.size());
  if (blocks < 1 || blocks > kMostBlocks) {
    fields.Refuse("block_out_channels", absl::StrCat("1 to ", kMostBlocks, " blocks are decoded"));
  }
  for (const int64_t channels : vae.block_channels) {
    if (channels % vae.groups != 0) {
      fields.Refuse("block_out_channels",
                    absl::StrCat(channels, " is not a multiple of norm_num_groups ", vae.groups));
    }
  }
  const std::vector<std::string> types =
      fields.StringsOr("up_block_types", std::vector<std::string>(blocks, kBlockType));
  if (types != std::vector<std::string>(blocks, kBlockType)) {
    fields.Refuse("up_block_types", absl::StrCat(blocks, " of ", kBlockType, " are decoded"));
  }
}

}  // namespace

absl::StatusOr<VaeArchitecture> ReadVaeArchitecture(const std::filesystem::path& vae_dir) {
  absl::StatusOr<JsonFields> fields = JsonFields::Read(vae_dir / "config.json");
  if (!fields.ok()) return fields.status();
  fields->Expect("_class_name", "AutoencoderKL");
  fields->Expect("out_channels", 3);
  VaeArchitecture vae;
  vae.config = ReadScales(*fields);
  vae.block_channels = fields->IntsOr("block_out_channels", {64}, kChannels);
  vae.groups = fields->IntOr("norm_num_groups", 32, kChannels);
  vae.resnets_per_block = fields->IntOr("layers_per_block", 1, kLayers) + 1;
  vae.post_quant_conv = fields->BoolOr("use_post_quant_conv", true);
  vae.middle_attention = fields->BoolOr("mid_block_add_attention", true);
  if (const std::string act = fields->StringOr("act_fn", "silu"); act != "silu" && act != "swish") {
    fields->Refuse("act_fn", "silu is computed");
  }
  CheckBlocks(vae, *fields);
  if (absl::Status status = fields->Finish(); !status.ok()) return status;
  vae.config.scale_factor = 1 << (vae.block_channels.size() - 1);
  std::reverse(vae.block_channels.begin(), vae.block_channels.end());
  return vae;
}

absl::StatusOr<VaeConfig> ReadVaeConfig(const std::filesystem::path& vae_dir) {
  absl::StatusOr<VaeArchitecture> vae = ReadVaeArchitecture(vae_dir);
  if (!vae.ok()) return vae.status();
  return vae->config;
}

}  // namespace patchflow
