// A warp's row as 8-bit numbers with one scale.
#pragma once

#include <cuda_fp8.h>

#include "engine/kernels/fp8_rows.h"
#include "engine/kernels/norm_modulate.cuh"

namespace patchflow {

__device__ __forceinline__ float MaxOverWarp(float x) {
#pragma unroll
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, lanes));
  }
  return x;
}

__device__ __forceinline__ float LargestOf(const float (&x)[kVector], float so_far) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    so_far = fmaxf(so_far, fabsf(x[i]));
  }
  return so_far;
}

// What numbers of the row are multiplied by; its scale is written by the first thread. `amax` is
// the row's, and no less than kFp8LeastAmax.
__device__ __forceinline__ float ScaleRow(float amax, float* row_scale) {
  if (threadIdx.x == 0) {
    *row_scale = amax / kFp8Largest;
  }
  return kFp8Largest / amax;
}

__device__ __forceinline__ void StoreFp8Vector(const float (&x)[kVector], float factor,
                                               uint8_t* to) {
  uint2 raw;
  auto* pairs = reinterpret_cast<__nv_fp8x2_storage_t*>(&raw);
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    pairs[i] = __nv_cvt_float2_to_fp8x2(make_float2(x[2 * i] * factor, x[2 * i + 1] * factor),
                                        __NV_SATFINITE, __NV_E4M3);
  }
  *reinterpret_cast<uint2*>(to) = raw;
}

}  // namespace patchflow
