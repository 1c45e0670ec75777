#include <cstdint>

#include "engine/vae/numbers.cuh"
#include "engine/vae/softmax_kernel.h"

namespace patchflow {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr int kVector = 4;
constexpr int kHeldVectors = 8;  // Of a thread: rows of up to 8192 keys stay in registers.
constexpr float kLog2E = 1.44269504088896341F;

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

__device__ float Exponential(float score, float scale, float largest) {
  return exp2f((score * scale - largest) * kLog2E);
}

// By one thread, with the sum of the tile's exponentials and the maximum with it and before it.
__device__ void Update(const SoftmaxTileKernel& p, int64_t row, float before, float largest,
                       float sum) {
  const float correction = exp2f((before - largest) * kLog2E);
  p.correction[row] = correction;
  p.sum[row] = p.sum[row] * correction + sum;
  p.max[row] = largest;
}

// Any number of keys: scores are read twice.
template <typename T>
__global__ void SoftmaxTile(SoftmaxTileKernel p) {
  const int64_t row = blockIdx.x;
  const float* scores = p.scores + row * p.keys;
  T* probabilities = static_cast<T*>(p.probabilities) + row * p.keys;
  const float before = p.max[row];
  float largest = -INFINITY;
  for (int64_t key = threadIdx.x; key < p.keys; key += kThreads) {
    largest = fmaxf(largest, scores[key]);
  }
  largest = fmaxf(before, BlockReduce<true>(largest) * p.scale);
  float sum = 0;
  for (int64_t key = threadIdx.x; key < p.keys; key += kThreads) {
    const float value = Exponential(scores[key], p.scale, largest);
    sum += value;
    probabilities[key] = FromFloat<T>(value);
  }
  sum = BlockReduce<false>(sum);
  if (threadIdx.x == 0) Update(p, row, before, largest, sum);
}

// Up to kThreads * kVector * kHeldVectors keys, a multiple of kVector: scores are read once.
template <typename T>
__global__ void __launch_bounds__(kThreads) SoftmaxHeldTile(SoftmaxTileKernel p) {
  using Scores = Vector<float, kVector>;
  const int64_t row = blockIdx.x;
  const float* scores = p.scores + row * p.keys;
  T* probabilities = static_cast<T*>(p.probabilities) + row * p.keys;
  const float before = p.max[row];
  const auto key_of = [](int i) {
    return (i * kThreads + static_cast<int>(threadIdx.x)) * kVector;
  };
  Scores held[kHeldVectors];
#pragma unroll
  for (int i = 0; i < kHeldVectors; ++i) {
    if (key_of(i) < p.keys) {
      held[i] = *reinterpret_cast<const Scores*>(scores + key_of(i));
    } else {
#pragma unroll
      for (int j = 0; j < kVector; ++j) held[i].at[j] = -INFINITY;
    }
  }
  float largest = -INFINITY;
#pragma unroll
  for (int i = 0; i < kHeldVectors; ++i) {
#pragma unroll
    for (int j = 0; j < kVector; ++j) largest = fmaxf(largest, held[i].at[j]);
  }
  largest = fmaxf(before, BlockReduce<true>(largest) * p.scale);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kHeldVectors; ++i) {
    Vector<T, kVector> probability;
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      const float value = Exponential(held[i].at[j], p.scale, largest);
      sum += value;
      probability.at[j] = FromFloat<T>(value);
    }
    if (key_of(i) < p.keys) {
      *reinterpret_cast<Vector<T, kVector>*>(probabilities + key_of(i)) = probability;
    }
  }
  sum = BlockReduce<false>(sum);
  if (threadIdx.x == 0) Update(p, row, before, largest, sum);
}

template <typename T>
cudaError_t LaunchOf(const SoftmaxTileKernel& p, cudaStream_t stream) {
  const bool held = p.keys % kVector == 0 && p.keys <= kThreads * kVector * kHeldVectors &&
                    reinterpret_cast<uintptr_t>(p.scores) % 16 == 0 &&
                    reinterpret_cast<uintptr_t>(p.probabilities) % 16 == 0;
  const auto blocks = static_cast<unsigned>(p.rows);
  if (held) {
    SoftmaxHeldTile<T><<<blocks, kThreads, 0, stream>>>(p);
  } else {
    SoftmaxTile<T><<<blocks, kThreads, 0, stream>>>(p);
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
