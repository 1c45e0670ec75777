// vae/config.json, in full.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/vae/decoder.h"

namespace patchflow {

struct VaeArchitecture {
  VaeConfig config;
  std::vector<int64_t> block_channels;  // Of the up blocks: from the latents to the pixels.
  int64_t resnets_per_block = 0;        // Of the decoder: one more than layers_per_block.
  int64_t groups = 0;                   // Of every norm.
  bool post_quant_conv = true;
  bool middle_attention = true;
};

absl::StatusOr<VaeArchitecture> ReadVaeArchitecture(const std::filesystem::path& vae_dir);

}  // namespace patchflow
