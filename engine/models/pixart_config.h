// config.json of the PixArt transformers: PixArtTransformer2DModel, and Transformer2DModel of the
// first checkpoints.
#pragma once

#include <cstdint>
#include <filesystem>

#include "absl/status/statusor.h"
#include "engine/transformer.h"

namespace patchflow {

struct PixArtConfig {
  TransformerConfig common;
  int64_t base_grid =
      0;  // Tokens a side at the size of training: positions are normalised to them.
  double interpolation_scale = 1;
  bool size_conditions =
      false;  // Resolution and aspect ratio join the timestep (PixArt-alpha at 1024 px).
  bool attention_bias = true;  // Of queries, keys and values.
  double norm_eps = 1e-6;
  int64_t output_channels = 8;  // latent_channels, or twice as many with a learned sigma.
};

// max_text_tokens is the pipeline's, which model_index.json beside the folder names: 300 for
// PixArtSigmaPipeline, 120 for PixArtAlphaPipeline and where there is no such file.
// INVALID_ARGUMENT for everything that this network can't be, naming file and field; NOT_FOUND if
// there is no config.
absl::StatusOr<PixArtConfig> ReadPixArtConfig(const std::filesystem::path& transformer_dir);

}  // namespace patchflow
