#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "engine/vae/softmax_kernel.h"

namespace patchflow {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr float kLog2E = 1.44269504088896341F;

template <typename T>
__device__ T FromFloat(float x);
template <>
__device__ float FromFloat<float>(float x) {
  return x;
}
template <>
__device__ __half FromFloat<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __nv_bfloat16 FromFloat<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

template <typename T, int V>
struct alignas(sizeof(T) * V) Vector {
  T at[V];
};

template <bool kMax>
__device__ float Combine(float a, float b) {
  return kMax ? fmaxf(a, b) : a + b;
}

// The same value on all threads.
template <bool kMax>
__device__ float BlockReduce(float value) {
  __shared__ float of_warp[kWarps];
  for (int lane = kWarp / 2; lane > 0; lane /= 2) {
    value = Combine<kMax>(value, __shfl_xor_sync(0xffffffffU, value, lane));
  }
  __syncthreads();
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = of_warp[0];
  for (int warp = 1; warp < kWarps; ++warp) value = Combine<kMax>(value, of_warp[warp]);
  return value;
}

template <typename T, int V>
__global__ void SoftmaxTile(SoftmaxTileKernel p) {
  const int64_t row = blockIdx.x;
  const float* scores = p.scores + row * p.keys;
  T* probabilities = static_cast<T*>(p.probabilities) + row * p.keys;

  float largest = -INFINITY;
  for (int64_t key = threadIdx.x * V; key < p.keys; key += kThreads * V) {
    const auto score = *reinterpret_cast<const Vector<float, V>*>(scores + key);
#pragma unroll
    for (int i = 0; i < V; ++i) largest = fmaxf(largest, score.at[i]);
  }
  const float before = p.max[row];
  largest = fmaxf(before, BlockReduce<true>(largest) * p.scale);

  float sum = 0;
  for (int64_t key = threadIdx.x * V; key < p.keys; key += kThreads * V) {
    const auto score = *reinterpret_cast<const Vector<float, V>*>(scores + key);
    Vector<T, V> probability;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float value = exp2f((score.at[i] * p.scale - largest) * kLog2E);
      sum += value;
      probability.at[i] = FromFloat<T>(value);
    }
    *reinterpret_cast<Vector<T, V>*>(probabilities + key) = probability;
  }
  sum = BlockReduce<false>(sum);
  if (threadIdx.x == 0) {
    const float correction = exp2f((before - largest) * kLog2E);
    p.correction[row] = correction;
    p.sum[row] = p.sum[row] * correction + sum;
    p.max[row] = largest;
  }
}

template <typename T>
cudaError_t LaunchOf(const SoftmaxTileKernel& p, cudaStream_t stream) {
  constexpr int kVector = 4;
  const bool vectors = p.keys % kVector == 0 && reinterpret_cast<uintptr_t>(p.scores) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(p.probabilities) % 16 == 0;
  const auto blocks = static_cast<unsigned>(p.rows);
  if (vectors) {
    SoftmaxTile<T, kVector><<<blocks, kThreads, 0, stream>>>(p);
  } else {
    SoftmaxTile<T, 1><<<blocks, kThreads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t Launch(const SoftmaxTileKernel& kernel, cudaStream_t stream) {
  switch (kernel.type) {
    case ProbabilityType::kFloat:
      return LaunchOf<float>(kernel, stream);
    case ProbabilityType::kHalf:
      return LaunchOf<__half>(kernel, stream);
    case ProbabilityType::kBFloat16:
      break;
  }
  return LaunchOf<__nv_bfloat16>(kernel, stream);
}

}  // namespace patchflow
