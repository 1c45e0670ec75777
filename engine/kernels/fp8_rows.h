// Rows of bfloat16 as rows of 8-bit numbers (e4m3) with a scale each.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/norm_modulate.h"

namespace patchflow {

inline constexpr float kFp8Largest = 448;  // Of e4m3, which has no infinity.
// What a row's largest magnitude counts as at least, so that scales have inverses.
inline constexpr float kFp8LeastAmax = 0x1p-100F;
inline constexpr int kFp8RowsMaxWidth = 8192;

// Device memory, aligned to 16 bytes; dense.
struct Fp8RowsArgs {
  const void* x = nullptr;     // bfloat16 [rows, width]
  void* y = nullptr;           // e4m3 [rows, width]
  float* row_scale = nullptr;  // [rows]
  int64_t rows = 0;
  int width = 0;  // A multiple of 8, at most kFp8RowsMaxWidth.
};

// Enqueues row_scale = amax / 448 and y = x (448 / amax), rounded to nearest even and saturating,
// where amax is the row's largest magnitude, or kFp8LeastAmax if that is more. A NaN becomes NaN;
// so does an infinity, and the finite rest of its row 0. One read of memory and half a write, a
// warp or a block a row.
// Returns cudaErrorInvalidValue for operands out of the contract.
cudaError_t LaunchFp8Rows(const Fp8RowsArgs& args, cudaStream_t stream);

// LaunchNormModulate and LaunchFp8Rows in one pass, to the bit; args.y is e4m3 [rows, width] and
// not args.x.
cudaError_t LaunchNormModulateFp8(const NormModulateArgs& args, float* row_scale,
                                  cudaStream_t stream);

}  // namespace patchflow
