// One warpgroup's work on one tile of keys and values: 64 queries, head size 72.
#pragma once

#include <cuda_bf16.h>

#include <utility>

#define CUTE_SM90_EXTENDED_MMA_SHAPES_ENABLED
#include <cute/arch/mma_sm90.hpp>
#include <cute/arch/mma_sm90_gmma.hpp>

#include "engine/kernels/attention_sm90.h"
#include "engine/kernels/attention_sm90_maps.h"
#include "engine/kernels/sm90.cuh"

namespace patchflow::attention_sm90 {

using namespace sm90;  // NOLINT(google-build-using-namespace)
namespace gmma = cute::SM90::GMMA;

constexpr int kHead = kAttentionSm90HeadSize;
constexpr int kKeys = 128;  // Keys a tile.
constexpr int kWide =
    kWideColumns;  // Columns of the part with 128-byte rows; the rest has 32-byte rows.
constexpr int kRest = kRestColumns;
constexpr int kScores = kKeys / 2;   // Accumulators a thread: 64 rows x kKeys over 128 threads.
constexpr int kOutputs = kHead / 2;  // 64 rows x 72 over 128 threads.
constexpr int kWarpgroupRows = 64;
constexpr float kLog2E = 1.4426950408889634F;
constexpr float kLn2 = 0.6931471805599453F;
constexpr int kWarpgroupThreads = 128;

// `rows` tokens in two parts. Each starts on a multiple of its swizzle pattern.
template <int kRows>
struct SplitTile {
  alignas(1024) __nv_bfloat16 wide[kRows * kWide];
  alignas(1024) __nv_bfloat16 rest[kRows * kRest];
  static constexpr uint32_t kBytes = kRows * (kWide + kRest) * 2;
};

// Values: two parts with 128-byte rows, as the product takes them column-major; columns beyond 72
// are filled with zeros by the copy and not read.
struct ValueTile {
  alignas(1024) __nv_bfloat16 part[2][kKeys * kWide];
  static constexpr uint32_t kBytes = 2 * kKeys * kWide * 2;
};

template <class Op, size_t... kI>
__device__ __forceinline__ void ProductSS(uint64_t a, uint64_t b, float (&d)[sizeof...(kI)],
                                          bool accumulate, std::index_sequence<kI...>) {
  Op::fma(a, b, d[kI]..., accumulate ? gmma::ScaleOut::One : gmma::ScaleOut::Zero);
}
template <class Op, size_t... kI>
__device__ __forceinline__ void ProductRS(const uint32_t* a, uint64_t b, float (&d)[sizeof...(kI)],
                                          bool accumulate, std::index_sequence<kI...>) {
  Op::fma(a[0], a[1], a[2], a[3], b, d[kI]...,
          accumulate ? gmma::ScaleOut::One : gmma::ScaleOut::Zero);
}

using ScoreOp = gmma::MMA_64x128x16_F32BF16BF16_SS<gmma::Major::K, gmma::Major::K>;
using ValueOp = gmma::MMA_64x72x16_F32BF16BF16_RS<gmma::Major::K, gmma::Major::MN>;

template <int kCount>
__device__ __forceinline__ void Fence(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    cute::warpgroup_fence_operand(registers[i]);
  }
}

// S = Q K^T, enqueued as one group.
template <class Queries>
__device__ __forceinline__ void EnqueueScores(const Queries& q, int row, const SplitTile<kKeys>& k,
                                              float (&s)[kScores]) {
  const uint64_t q_wide = Descriptor(q.wide + row * kWide, Swizzle::k128, 16, 1024);
  const uint64_t q_rest = Descriptor(q.rest + row * kRest, Swizzle::k32, 16, 256);
  const uint64_t k_wide = Descriptor(k.wide, Swizzle::k128, 16, 1024);
  const uint64_t k_rest = Descriptor(k.rest, Swizzle::k32, 16, 256);
  Fence(s);
  cute::warpgroup_arrive();
#pragma unroll
  for (int i = 0; i < kWide / 16; ++i) {
    ProductSS<ScoreOp>(Advance(q_wide, 32 * i), Advance(k_wide, 32 * i), s, i > 0,
                       std::make_index_sequence<kScores>());
  }
  ProductSS<ScoreOp>(q_rest, k_rest, s, true, std::make_index_sequence<kScores>());
  cute::warpgroup_commit_batch();
  Fence(s);
}

// O += P V, enqueued as one group.
__device__ __forceinline__ void EnqueueValues(const uint32_t (&p)[kScores / 2], const ValueTile& v,
                                              float (&o)[kOutputs], bool accumulate) {
  const uint64_t values = Descriptor(v.part[0], Swizzle::k128, sizeof(v.part[0]), 1024);
  Fence(o);
  cute::warpgroup_arrive();
#pragma unroll
  for (int i = 0; i < kKeys / 16; ++i) {
    ProductRS<ValueOp>(p + 4 * i, Advance(values, 2048 * i), o, accumulate || i > 0,
                       std::make_index_sequence<kOutputs>());
  }
  cute::warpgroup_commit_batch();
  Fence(o);
}

// Running softmax of two rows a thread (row and row + 8 of the warp's 16).
struct Softmax {
  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};  // Of this thread's columns.
  static constexpr float kSlack = 8;

  // Turns scores into unnormalised probabilities. True, for the whole warp, if earlier results must
  // be multiplied by `rescale`: only once a maximum has grown by 2^kSlack, since probabilities up
  // to that are as exact. Source: FlashAttention-4, section 3.
  __device__ __forceinline__ bool Update(float (&s)[kScores], float scale_log2,
                                         float (&rescale)[2]) {
    // Four chains: one would wait for itself.
    float chains[2][2] = {{maximum[0], s[1]}, {maximum[1], s[3]}};
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      float& chain = chains[i / 2 % 2][i % 2];
      chain = fmaxf(chain, s[i]);
    }
    float top[2] = {fmaxf(chains[0][0], chains[0][1]), fmaxf(chains[1][0], chains[1][1])};
#pragma unroll
    for (int lanes = 1; lanes <= 2; lanes *= 2) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffff, top[r], lanes));
      }
    }
    const bool grown = __any_sync(0xffffffff, (top[0] - maximum[0]) * scale_log2 > kSlack ||
                                                  (top[1] - maximum[1]) * scale_log2 > kSlack);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float next = grown ? top[r] : maximum[r];
      rescale[r] = grown ? Exp2((maximum[r] - next) * scale_log2) : 1.0F;
      maximum[r] = next;
      const float offset = maximum[r] * scale_log2;
      float added = 0;
#pragma unroll
      for (int i = 0; i < kScores / 4; ++i) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& x = s[4 * i + 2 * r + c];
          const float power = fmaf(x, scale_log2, -offset);
          x = Exp2(power);
          added += x;
        }
      }
      sum[r] = sum[r] * rescale[r] + added;
    }
    return grown;
  }

  // The same without looking for maxima: relative to the ones there are, which are those of the
  // first tile. Probabilities beyond 1 are as exact as others, as long as Fits().
  __device__ __forceinline__ void UpdateByFirst(float (&s)[kScores], float scale_log2) {
    const float offset[2] = {maximum[0] * scale_log2, maximum[1] * scale_log2};
    float added[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      const int r = i / 2 % 2;
      const float power = fmaf(s[i], scale_log2, -offset[r]);
      s[i] = Exp2(power);
      added[r] += s[i];
    }
    sum[0] += added[0];
    sum[1] += added[1];
  }

  // Before Finish(): whether no probability grew so large that sums and products might overflow.
  __device__ __forceinline__ bool Fits() const {
    constexpr float kMost = 1.2676506e30F;  // 2^100
    return sum[0] < kMost && sum[1] < kMost;
  }

  __device__ __forceinline__ void Finish() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(0xffffffff, sum[r], 1);
      sum[r] += __shfl_xor_sync(0xffffffff, sum[r], 2);
    }
  }
};

// Accumulators of scores are laid out as the left operand of the next product takes them.
__device__ __forceinline__ void Pack(const float (&s)[kScores], uint32_t (&p)[kScores / 2]) {
#pragma unroll
  for (int i = 0; i < kScores / 2; ++i) {
    p[i] = PackBf16(s[2 * i], s[2 * i + 1]);
  }
}

__device__ __forceinline__ void MaskBeyond(float (&s)[kScores], int first_key, int keys, int lane) {
#pragma unroll
  for (int i = 0; i < kScores; ++i) {
    const int key = first_key + 8 * (i / 4) + 2 * (lane % 4) + i % 2;
    s[i] = key < keys ? s[i] : -INFINITY;
  }
}

// Scores with the bias of their keys, scaled for powers of two; nothing beyond the last key. Keys
// of a thread come in pairs.
__device__ __forceinline__ void AddKeyBias(float (&s)[kScores], const __nv_bfloat16* bias,
                                           int first_key, int keys, int lane, float scale_log2) {
#pragma unroll
  for (int i = 0; i < kScores; i += 4) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int key = first_key + 2 * i + 2 * (lane % 4) + c;
      const float added = key < keys ? __bfloat162float(bias[key]) * kLog2E : -INFINITY;
      s[i + c] = fmaf(s[i + c], scale_log2, added);
      s[i + 2 + c] = fmaf(s[i + 2 + c], scale_log2, added);
    }
  }
}

__device__ __forceinline__ void Scale(float (&o)[kOutputs], const float (&rescale)[2]) {
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    o[i] *= rescale[(i / 2) % 2];
  }
}

}  // namespace patchflow::attention_sm90
