// Numbers of the three dtypes of feature maps, computed in float32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace patchflow {

__device__ __forceinline__ float ToFloat(float x) { return x; }
__device__ __forceinline__ float ToFloat(__half x) { return __half2float(x); }
__device__ __forceinline__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }

// Rounds to nearest, ties to even.
template <typename T>
__device__ __forceinline__ T FromFloat(float x);
template <>
__device__ __forceinline__ float FromFloat<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half FromFloat<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 FromFloat<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// V numbers that are read and written at once.
template <typename T, int V>
struct alignas(sizeof(T) * V) Vector {
  T at[V];
};

}  // namespace patchflow
