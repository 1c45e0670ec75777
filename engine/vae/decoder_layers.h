// All layers of a decoder, read from a checkpoint.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/vae/architecture.h"
#include "engine/vae/layers.h"
#include "engine/weights/weight_reader.h"

namespace patchflow {

struct DecoderLayers {
  std::optional<Linear> post_quant;  // float32
  Convolution conv_in;
  Resnet middle_first;
  std::optional<MiddleAttention> attention;
  Resnet middle_last;
  std::vector<UpBlock> up;
  GroupNorm norm_out;
  Convolution conv_out;
  int64_t bytes = 0;  // Of all of these.
};

// Weights of convolutions and projections in options.dtype, norms and biases in float32. Encoder
// and quant_conv are passed over. INVALID_ARGUMENT lists everything wrong with the weights;
// NOT_FOUND.
absl::StatusOr<DecoderLayers> ReadDecoderLayers(const std::filesystem::path& vae_dir,
                                                const VaeArchitecture& vae,
                                                const ReadOptions& options);

}  // namespace patchflow
