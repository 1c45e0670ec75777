// Eight bfloat16 numbers at a time: 16 bytes, the widest access there is.
#pragma once

#include <cuda_bf16.h>

namespace patchflow {

constexpr int kVector = 8;

__device__ __forceinline__ void LoadVector(const __nv_bfloat16* from, float (&x)[kVector]) {
  const uint4 raw = *reinterpret_cast<const uint4*>(from);
  const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(&raw);
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    const float2 pair = __bfloat1622float2(pairs[i]);
    x[2 * i] = pair.x;
    x[2 * i + 1] = pair.y;
  }
}

__device__ __forceinline__ void LoadVector(const float* from, float (&x)[kVector]) {
#pragma unroll
  for (int i = 0; i < kVector; i += 4) {
    const float4 quad = *reinterpret_cast<const float4*>(from + i);
    x[i] = quad.x;
    x[i + 1] = quad.y;
    x[i + 2] = quad.z;
    x[i + 3] = quad.w;
  }
}

__device__ __forceinline__ void StoreVector(const float (&x)[kVector], __nv_bfloat16* to) {
  uint4 raw;
  auto* pairs = reinterpret_cast<__nv_bfloat162*>(&raw);
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    pairs[i] = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
  }
  *reinterpret_cast<uint4*>(to) = raw;
}

}  // namespace patchflow
