#include "engine/kernels/attention_sm90.h"

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <utility>

#define CUTE_SM90_EXTENDED_MMA_SHAPES_ENABLED
#include <cute/arch/mma_sm90.hpp>
#include <cute/arch/mma_sm90_gmma.hpp>

#include "engine/kernels/sm90.cuh"

namespace patchflow {
namespace {

using namespace sm90;  // NOLINT(google-build-using-namespace)
namespace gmma = cute::SM90::GMMA;

constexpr int kHead = kAttentionSm90HeadSize;
constexpr int kKeys = 128;  // Keys a tile.
constexpr int kStages = 2;  // Tiles in flight.
constexpr int kWide = 64;   // Columns of the part with 128-byte rows; the rest has 32-byte rows.
constexpr int kRest = 16;
constexpr int kScores = kKeys / 2;   // Accumulators a thread: 64 rows x kKeys over 128 threads.
constexpr int kOutputs = kHead / 2;  // 64 rows x 72 over 128 threads.
constexpr int kWarpgroupRows = 64;
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

template <int kConsumers>
struct Shared {
  SplitTile<kConsumers * kWarpgroupRows> q;
  SplitTile<kKeys> k[kStages];
  ValueTile v[kStages];
  uint64_t q_full;
  uint64_t k_full[kStages];
  uint64_t k_empty[kStages];
  uint64_t v_full[kStages];
  uint64_t v_empty[kStages];
};

struct Maps {
  CUtensorMap q_wide;
  CUtensorMap q_rest;
  CUtensorMap k_wide;
  CUtensorMap k_rest;
  CUtensorMap v;
};

struct Sizes {
  int queries;
  int keys;
  int heads;
  float scale_log2;  // scale / ln 2
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

  // Turns scores into unnormalised probabilities; `rescale` is what earlier results must be
  // multiplied by.
  __device__ __forceinline__ void Update(float (&s)[kScores], float scale_log2,
                                         float (&rescale)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = maximum[r];
#pragma unroll
      for (int i = 0; i < kScores / 4; ++i) {
        top = fmaxf(top, fmaxf(s[4 * i + 2 * r], s[4 * i + 2 * r + 1]));
      }
      top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 2));
      rescale[r] = Exp2((maximum[r] - top) * scale_log2);
      maximum[r] = top;
      const float offset = top * scale_log2;
      float added = 0;
#pragma unroll
      for (int i = 0; i < kScores / 4; ++i) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& x = s[4 * i + 2 * r + c];
          x = Exp2(fmaf(x, scale_log2, -offset));
          added += x;
        }
      }
      sum[r] = sum[r] * rescale[r] + added;
    }
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

template <int kConsumers>
__device__ __forceinline__ void Produce(const Maps& maps, Shared<kConsumers>& shared, int first_row,
                                        int head, int row_of_batch, int tiles) {
  BarrierExpect(&shared.q_full, shared.q.kBytes);
  LoadBox(shared.q.wide, &maps.q_wide, &shared.q_full, 0, first_row, head, row_of_batch);
  LoadBox(shared.q.rest, &maps.q_rest, &shared.q_full, kWide, first_row, head, row_of_batch);
  for (int tile = 0; tile < tiles; ++tile) {
    const int stage = tile % kStages;
    const uint32_t parity = (tile / kStages) % 2;
    const int key = tile * kKeys;
    auto& k = shared.k[stage];
    BarrierWait(&shared.k_empty[stage], parity ^ 1);
    BarrierExpect(&shared.k_full[stage], k.kBytes);
    LoadBox(k.wide, &maps.k_wide, &shared.k_full[stage], 0, key, head, row_of_batch);
    LoadBox(k.rest, &maps.k_rest, &shared.k_full[stage], kWide, key, head, row_of_batch);
    auto& v = shared.v[stage];
    BarrierWait(&shared.v_empty[stage], parity ^ 1);
    BarrierExpect(&shared.v_full[stage], v.kBytes);
    LoadBox(v.part[0], &maps.v, &shared.v_full[stage], 0, key, head, row_of_batch);
    LoadBox(v.part[1], &maps.v, &shared.v_full[stage], kWide, key, head, row_of_batch);
  }
}

__device__ __forceinline__ void Scale(float (&o)[kOutputs], const float (&rescale)[2]) {
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    o[i] *= rescale[(i / 2) % 2];
  }
}

// All tiles of one warpgroup's 64 rows: the scores of a tile are multiplied while the values of the
// tile before are, and its softmax runs under the latter.
template <int kConsumers>
__device__ __forceinline__ void Consume(Shared<kConsumers>& shared, int row, int tiles,
                                        const Sizes& sizes, float (&o)[kOutputs],
                                        Softmax& softmax) {
  const int lane = threadIdx.x % 32;
  const auto release = [lane](uint64_t* barrier) {
    if (lane == 0) {
      BarrierArrive(barrier);
    }
  };
  float s[kScores];
  uint32_t p[kScores / 2];
  float rescale[2];

  BarrierWait(&shared.q_full, 0);
  BarrierWait(&shared.k_full[0], 0);
  EnqueueScores(shared.q, row, shared.k[0], s);
  cute::warpgroup_wait<0>();
  Fence(s);
  release(&shared.k_empty[0]);
  if (tiles == 1) {
    MaskBeyond(s, 0, sizes.keys, lane);
  }
  softmax.Update(s, sizes.scale_log2, rescale);
  Pack(s, p);

  for (int tile = 1; tile < tiles; ++tile) {
    const int stage = tile % kStages;
    const int before = (tile - 1) % kStages;
    BarrierWait(&shared.k_full[stage], (tile / kStages) % 2);
    EnqueueScores(shared.q, row, shared.k[stage], s);
    BarrierWait(&shared.v_full[before], ((tile - 1) / kStages) % 2);
    EnqueueValues(p, shared.v[before], o, tile > 1);
    cute::warpgroup_wait<1>();
    Fence(s);
    release(&shared.k_empty[stage]);
    if (tile == tiles - 1) {
      MaskBeyond(s, tile * kKeys, sizes.keys, lane);
    }
    softmax.Update(s, sizes.scale_log2, rescale);
    cute::warpgroup_wait<0>();
    Fence(o);
    release(&shared.v_empty[before]);
    Scale(o, rescale);
    Pack(s, p);
  }
  const int last = (tiles - 1) % kStages;
  BarrierWait(&shared.v_full[last], ((tiles - 1) / kStages) % 2);
  EnqueueValues(p, shared.v[last], o, tiles > 1);
  cute::warpgroup_wait<0>();
  Fence(o);
  softmax.Finish();
}

__device__ __forceinline__ void Store(const float (&o)[kOutputs], const Softmax& softmax,
                                      int first_row, int head, int row_of_batch, const Sizes& sizes,
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
    const int64_t token = int64_t{row_of_batch} * sizes.queries + query;
    auto* row = reinterpret_cast<uint32_t*>(out + (token * sizes.heads + head) * kHead);
#pragma unroll
    for (int i = 0; i < kHead / 8; ++i) {
      row[4 * i + lane % 4] = PackBf16(o[4 * i + 2 * r] * inverse, o[4 * i + 2 * r + 1] * inverse);
    }
    if (lse != nullptr && lane % 4 == 0) {
      constexpr float kLn2 = 0.6931471805599453F;
      lse[(int64_t{row_of_batch} * sizes.heads + head) * sizes.queries + query] =
          (softmax.maximum[r] * sizes.scale_log2 + __log2f(softmax.sum[r])) * kLn2;
    }
  }
}

template <int kConsumers>
__global__ void __launch_bounds__(kWarpgroupThreads*(kConsumers + 1), 1)
    AttentionKernel(const __grid_constant__ Maps maps, const Sizes sizes, __nv_bfloat16* out,
                    float* lse) {
  extern __shared__ uint8_t raw[];
  auto& shared =
      *reinterpret_cast<Shared<kConsumers>*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~1023ULL);
  if (threadIdx.x == 0) {
    BarrierInit(&shared.q_full, 1);
    for (int stage = 0; stage < kStages; ++stage) {
      BarrierInit(&shared.k_full[stage], 1);
      BarrierInit(&shared.v_full[stage], 1);
      BarrierInit(&shared.k_empty[stage], 4 * kConsumers);
      BarrierInit(&shared.v_empty[stage], 4 * kConsumers);
    }
    FenceBarrierInit();
  }
  __syncthreads();

  const int tile_row = blockIdx.x * kConsumers * kWarpgroupRows;
  const int tiles = (sizes.keys + kKeys - 1) / kKeys;
  const int warpgroup = threadIdx.x / kWarpgroupThreads;
  if (warpgroup == kConsumers) {
    GiveRegisters<kConsumers == 3 ? 32 : 24>();
    if (threadIdx.x == kConsumers * kWarpgroupThreads) {
      Produce(maps, shared, tile_row, blockIdx.y, blockIdx.z, tiles);
    }
  } else {
    KeepRegisters<kConsumers == 3 ? 160 : 240>();
    const int row = warpgroup * kWarpgroupRows;
    float o[kOutputs];
    Softmax softmax;
    Consume(shared, row, tiles, sizes, o, softmax);
    Store(o, softmax, tile_row + row, blockIdx.y, blockIdx.z, sizes, out, lse);
  }
}

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                 const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                 const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

EncodeTiled FindEncodeTiled() {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault,
                                       &found) != cudaSuccess ||
      found != cudaDriverEntryPointSuccess) {
    return nullptr;
  }
  return reinterpret_cast<EncodeTiled>(entry);
}

// Boxes of `rows` tokens x `columns` of one head of one batch row.
bool Encode(const AttentionOperand& operand, int tokens, const AttentionSm90Args& args, int rows,
            int columns, CUtensorMap* map) {
  static const EncodeTiled encode = FindEncodeTiled();
  const std::array<cuuint64_t, 4> extent = {kHead, static_cast<cuuint64_t>(tokens),
                                            static_cast<cuuint64_t>(args.heads),
                                            static_cast<cuuint64_t>(args.batch)};
  const std::array<cuuint64_t, 3> pitch_bytes = {static_cast<cuuint64_t>(operand.token_stride) * 2,
                                                 static_cast<cuuint64_t>(operand.head_stride) * 2,
                                                 static_cast<cuuint64_t>(operand.batch_stride) * 2};
  const std::array<cuuint32_t, 4> box = {static_cast<cuuint32_t>(columns),
                                         static_cast<cuuint32_t>(rows), 1, 1};
  const std::array<cuuint32_t, 4> step = {1, 1, 1, 1};
  return encode != nullptr &&
         encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void*>(operand.data),
                extent.data(), pitch_bytes.data(), box.data(), step.data(),
                CU_TENSOR_MAP_INTERLEAVE_NONE,
                columns == kWide ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_32B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <int kConsumers>
cudaError_t Launch(const AttentionSm90Args& args, cudaStream_t stream) {
  constexpr int kRows = kConsumers * kWarpgroupRows;
  Maps maps;
  if (!Encode(args.q, args.queries, args, kRows, kWide, &maps.q_wide) ||
      !Encode(args.q, args.queries, args, kRows, kRest, &maps.q_rest) ||
      !Encode(args.k, args.keys, args, kKeys, kWide, &maps.k_wide) ||
      !Encode(args.k, args.keys, args, kKeys, kRest, &maps.k_rest) ||
      !Encode(args.v, args.keys, args, kKeys, kWide, &maps.v)) {
    return cudaErrorInvalidValue;
  }
  constexpr int kSharedBytes = sizeof(Shared<kConsumers>) + 1024;
  static const cudaError_t prepared = cudaFuncSetAttribute(
      AttentionKernel<kConsumers>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (prepared != cudaSuccess) {
    return prepared;
  }
  const Sizes sizes = {args.queries, args.keys, args.heads, args.scale * 1.4426950408889634F};
  const dim3 grid((args.queries + kRows - 1) / kRows, args.heads, args.batch);
  AttentionKernel<kConsumers><<<grid, kWarpgroupThreads*(kConsumers + 1), kSharedBytes, stream>>>(
      maps, sizes, static_cast<__nv_bfloat16*>(args.o), args.lse);
  return cudaGetLastError();
}

// Waves that `rows` queries a block need on the device, in units of 64 rows of work.
int64_t WaveCost(const AttentionSm90Args& args, int consumers, int multiprocessors) {
  const int rows = consumers * kWarpgroupRows;
  const int64_t blocks = int64_t{(args.queries + rows - 1) / rows} * args.heads * args.batch;
  return (blocks + multiprocessors - 1) / multiprocessors * consumers;
}

}  // namespace

cudaError_t LaunchAttentionSm90(const AttentionSm90Args& args, cudaStream_t stream) {
  if (args.keys < 1 || args.queries < 1 || args.batch < 1 || args.heads < 1) {
    return cudaErrorInvalidValue;
  }
  int device = 0;
  int multiprocessors = 0;
  if (cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) {
    return error;
  }
  if (cudaError_t error =
          cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
      error != cudaSuccess) {
    return error;
  }
  return WaveCost(args, 3, multiprocessors) <= WaveCost(args, 2, multiprocessors)
             ? Launch<3>(args, stream)
             : Launch<2>(args, stream);
}

}  // namespace patchflow
