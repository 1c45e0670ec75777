// What follows a product whose parts were summed over ranks, and so has no epilogue to put it in.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace patchflow {

// Device memory, aligned to 16 bytes; matrices dense, bfloat16 [rows, width].
struct GatedResidualArgs {
  const void* x = nullptr;
  const void* bias = nullptr;   // bfloat16 [width]; none adds nothing.
  const float* gate = nullptr;  // [width]; none is 1.
  const void* residual = nullptr;
  void* y = nullptr;  // May be x or residual.
  int64_t rows = 0;
  int width = 0;  // A multiple of 8.
};

// Enqueues y = residual + gate (x + bias), float32 until the one rounding.
// Returns cudaErrorInvalidValue for operands out of the contract.
cudaError_t LaunchGatedResidual(const GatedResidualArgs& args, cudaStream_t stream);

}  // namespace patchflow
