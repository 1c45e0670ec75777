// config.json of a T5 encoder.
#pragma once

#include <cstdint>
#include <filesystem>

#include "absl/status/statusor.h"

namespace patchflow {

enum class T5Activation { kRelu, kGelu, kGeluTanh, kSilu };

struct T5Config {
  int64_t vocabulary = 0;
  int64_t width = 0;      // d_model
  int64_t head_size = 0;  // d_kv; heads x head_size need not be the width.
  int64_t num_heads = 0;
  int64_t feed_forward_width = 0;
  int64_t num_blocks = 0;
  int64_t position_buckets = 0;
  int64_t max_distance = 0;
  double norm_epsilon = 1e-6;
  T5Activation activation = T5Activation::kRelu;
  bool gated = false;
};

// With transformers' defaults for what the file leaves out. INVALID_ARGUMENT for another
// architecture.
absl::StatusOr<T5Config> ReadT5Config(const std::filesystem::path& text_encoder_dir);

}  // namespace patchflow
