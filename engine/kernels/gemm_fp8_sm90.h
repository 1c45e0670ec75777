// Matrix products of 8-bit numbers for Hopper, with their scales and what follows them fused into
// their epilogue.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/kernels/gemm_sm90.h"

namespace patchflow {

// Device memory, aligned to 16 bytes; matrices dense and row-major, x and weight e4m3 (OCP 8-bit
// floating point, without infinities), the others bfloat16. Element x[r, i] stands for
// x_scale[r] x[r, i], weight[o, i] for weight_scale[o] weight[o, i].
struct GemmFp8Args {
  const void* x = nullptr;              // [rows, in]
  const float* x_scale = nullptr;       // [rows]
  const void* weight = nullptr;         // [out, in]
  const float* weight_scale = nullptr;  // [out]
  const void* bias = nullptr;           // [out]; none adds nothing.
  const float* gate = nullptr;          // [out], of kBiasResidual; none is 1.
  const void* residual = nullptr;       // [rows, out], of kBiasResidual; may be y.
  void* y = nullptr;                    // [rows, out]
  int rows = 0;
  int in = 0;   // A multiple of 16.
  int out = 0;  // A multiple of 8.
};

// Enqueues the product and what GemmEpilogue says of it on `stream`. Persistent thread blocks in
// pairs that share what they load, whose two warpgroups take turns on tiles of 128 x 128, so that
// the epilogue of one, which is long beside so short a product, hides behind the other's (128 x 192
// shared by both was slower but for 2048 rows of 4608: by 4 % there); no workspace, so a CUDA graph
// may capture it. Accumulates within the tensor core, which keeps about 14 bits of a sum: over 4608
// numbers of either sign that costs less than the rounding to bfloat16 does (a norm of 0.001 beside
// 0.0017, and 0.037 by rounding the operands to 8 bits), over 4608 of one sign up to 2 % of their
// sum. Sums kept in full would take as many registers again as the tile. Returns
// cudaErrorInvalidValue for operands out of the contract. Source: CUTLASS 3's warp-specialised
// kernels for Hopper, "FP8FastAccum"; on the accumulators, DeepSeek-V3 (arXiv 2412.19437), 3.3.2.
cudaError_t LaunchGemmFp8Sm90(const GemmFp8Args& args, GemmEpilogue epilogue, cudaStream_t stream);

}  // namespace patchflow
