// CUDA kernel of one step of softmax over tiles of keys, on raw device pointers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace patchflow {

enum class ProbabilityType { kFloat, kHalf, kBFloat16 };

// For every row: the largest scaled score so far, exponentials of this tile's scores over it, their
// sum so far, and what earlier sums must be multiplied by.
struct SoftmaxTileKernel {
  const float* scores = nullptr;  // [rows, keys]
  void* probabilities = nullptr;  // [rows, keys]; may be `scores` itself if float.
  ProbabilityType type = ProbabilityType::kFloat;
  float* max = nullptr;         // [rows], in and out; -infinity before the first tile.
  float* sum = nullptr;         // [rows], in and out; 0 before the first tile.
  float* correction = nullptr;  // [rows]
  int64_t rows = 0;
  int64_t keys = 0;
  float scale = 0;
};
// Launches on `stream` and returns cudaGetLastError().
cudaError_t Launch(const SoftmaxTileKernel& kernel, cudaStream_t stream);

}  // namespace patchflow
