// Folders with networks of any size and random weights: times and memory need no real ones.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>

namespace patchflow {

// Weights are drawn on `device`, in the order of their names, and stored in `dtype`.
struct RandomWeights {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kBFloat16;
};

// PixArt-XL/2 (arXiv 2310.00426) by default, with the size conditions of the 1024 px checkpoint:
// 1.2 GB in bfloat16.
struct PixArtShape {
  int64_t blocks = 28;
  int64_t heads = 16;
  int64_t head_size = 72;
  int64_t caption_width = 4096;
};
void WriteRandomPixArt(const PixArtShape& shape, const RandomWeights& weights,
                       const std::filesystem::path& dir);

// The encoder of T5 v1.1 XXL by default: 9.5 GB in bfloat16.
struct T5Shape {
  int64_t blocks = 24;
  int64_t width = 4096;
  int64_t heads = 64;
  int64_t head_size = 64;
  int64_t feed_forward_width = 10240;
  int64_t vocabulary = 32128;
};
void WriteRandomT5(const T5Shape& shape, const RandomWeights& weights,
                   const std::filesystem::path& dir);

}  // namespace patchflow
