// What each thread block of attention computes, and where its results go.
#pragma once

#include <cuda_bf16.h>

#include "engine/kernels/attention_sm90_tile.cuh"

namespace patchflow::attention_sm90 {

struct Sizes {
  int queries;
  int keys;
  int heads;
  float scale_log2;  // scale / ln 2
  const __nv_bfloat16* key_bias;
  int64_t key_bias_stride;
  int batch;
  int whole_blocks;  // Of every head; then come the split ones.
  int split_blocks;
  int pieces;
};

// Parts of the rows behind the whole blocks: [pieces, batch, rows, heads, 72] and [pieces, batch,
// heads, rows].
struct Parts {
  float* o;
  float* lse;
};

// What a block computes: rows of a head over a run of tiles.
struct Unit {
  int first_row;
  int head;
  int batch_row;
  int first_tile;
  int tiles;
  int piece;  // -1: all tiles.
};

// Blocks begin in order of their index: whole ones first, so that pieces fill the gaps.
template <int kRows, bool kSplits>
__device__ __forceinline__ Unit UnitOf(const Sizes& sizes) {
  const int tiles = (sizes.keys + kKeys - 1) / kKeys;
  const int whole = sizes.whole_blocks * sizes.heads * sizes.batch;
  int left = blockIdx.x;
  if (!kSplits || left < whole) {
    const int block = left % sizes.whole_blocks;
    left /= sizes.whole_blocks;
    return {block * kRows, left % sizes.heads, left / sizes.heads, 0, tiles, -1};
  }
  left -= whole;
  const int piece = left % sizes.pieces;
  left /= sizes.pieces;
  const int block = sizes.whole_blocks + left % sizes.split_blocks;
  left /= sizes.split_blocks;
  const int begin = tiles * piece / sizes.pieces;
  const int end = tiles * (piece + 1) / sizes.pieces;
  return {block * kRows, left % sizes.heads, left / sizes.heads, begin, end - begin, piece};
}

template <bool kBiased>
__device__ __forceinline__ float LogSumExp(const Softmax& softmax, int r, const Sizes& sizes) {
  return (softmax.maximum[r] * (kBiased ? 1.0F : sizes.scale_log2) + __log2f(softmax.sum[r])) *
         kLn2;
}

template <bool kBiased>
__device__ __forceinline__ void Store(const float (&o)[kOutputs], const Softmax& softmax,
                                      int first_row, const Unit& unit, const Sizes& sizes,
                                      __nv_bfloat16* out, float* lse) {
  const int lane = threadIdx.x % 32;
  const int warp = (threadIdx.x / 32) % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int query = first_row + warp * 16 + lane / 4 + 8 * r;
    if (query >= sizes.queries) {
      continue;
    }
    const float inverse = 1.0F / softmax.sum[r];
    const int64_t token = int64_t{unit.batch_row} * sizes.queries + query;
    auto* row = reinterpret_cast<uint32_t*>(out + (token * sizes.heads + unit.head) * kHead);
#pragma unroll
    for (int i = 0; i < kHead / 8; ++i) {
      row[4 * i + lane % 4] = PackBf16(o[4 * i + 2 * r] * inverse, o[4 * i + 2 * r + 1] * inverse);
    }
    if (lse != nullptr && lane % 4 == 0) {
      lse[(int64_t{unit.batch_row} * sizes.heads + unit.head) * sizes.queries + query] =
          LogSumExp<kBiased>(softmax, r, sizes);
    }
  }
}

// Of the rows behind the whole blocks, `first_row` among all.
__device__ __forceinline__ void StorePart(const float (&o)[kOutputs], const Softmax& softmax,
                                          int first_row, int rows_before, const Unit& unit,
                                          const Sizes& sizes, const Parts& parts) {
  const int lane = threadIdx.x % 32;
  const int warp = (threadIdx.x / 32) % 4;
  const int rows = sizes.queries - rows_before;
  const int64_t batch_row = int64_t{unit.piece} * sizes.batch + unit.batch_row;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int query = first_row - rows_before + warp * 16 + lane / 4 + 8 * r;
    if (query >= rows) {
      continue;
    }
    const float inverse = 1.0F / softmax.sum[r];
    auto* row = reinterpret_cast<float2*>(
        parts.o + ((batch_row * rows + query) * sizes.heads + unit.head) * kHead);
#pragma unroll
    for (int i = 0; i < kHead / 8; ++i) {
      row[4 * i + lane % 4] =
          make_float2(o[4 * i + 2 * r] * inverse, o[4 * i + 2 * r + 1] * inverse);
    }
    if (lane % 4 == 0) {
      parts.lse[(batch_row * sizes.heads + unit.head) * rows + query] =
          LogSumExp<false>(softmax, r, sizes);
    }
  }
}

}  // namespace patchflow::attention_sm90
