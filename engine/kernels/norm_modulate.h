// LayerNorm without weights of its own, then a modulation that is the same for all tokens (adaLN).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace patchflow {

inline constexpr int kNormModulateMaxWidth = 2048;

// Device memory, aligned to 16 bytes; matrices dense, bfloat16 [rows, width].
struct NormModulateArgs {
  const void* x = nullptr;
  const float* scale = nullptr;  // [width]; what LayerNorm's result is multiplied by.
  const float* shift = nullptr;  // [width]
  void* y = nullptr;             // May be x.
  int64_t rows = 0;
  int width = 0;  // A multiple of 8, at most kNormModulateMaxWidth.
  float eps = 0;
};

// Enqueues y = scale (x - mean) / sqrt(variance + eps) + shift: one read and one write of memory, a
// warp a row, statistics over registers in two passes, float32 until the one rounding.
// Returns cudaErrorInvalidValue for operands out of the contract.
cudaError_t LaunchNormModulate(const NormModulateArgs& args, cudaStream_t stream);

}  // namespace patchflow
