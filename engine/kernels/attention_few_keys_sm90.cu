#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "engine/kernels/attention_sm90_maps.h"
#include "engine/kernels/attention_sm90_tile.cuh"

// Attention over so few keys that a thread block holds them all, as cross-attention has it: a
// warpgroup then needs one product, one softmax and one more product for 64 queries, each of which
// waits for the one before. Four warpgroups a multiprocessor do so at once, and what they load and
// store next moves meanwhile.
namespace patchflow::attention_sm90 {
namespace {

constexpr int kWarpgroups = 2;
constexpr int kBlocksAMultiprocessor = 2;
constexpr int kThreads = kWarpgroups * kWarpgroupThreads;
constexpr int kSlots = 2;  // Of queries: one worked on, one on its way.
static_assert(kKeys == kAttentionSm90FewKeys);

using QueryTile = SplitTile<kWarpgroupRows>;

struct Shared {
  SplitTile<kKeys> k;
  ValueTile v;
  QueryTile q[kWarpgroups][kSlots];  // Queries in, results out.
  float bias[kKeys];                 // In powers of two; beyond the keys minus infinity.
  uint64_t kv_full;
  uint64_t q_full[kWarpgroups][kSlots];
};

struct Maps {
  InputMaps in;
  CUtensorMap o_wide;
  CUtensorMap o_rest;
};

struct Sizes {
  int queries;
  int keys;
  int heads;
  int blocks;  // Of every head of every batch row.
  float scale_log2;
  const __nv_bfloat16* key_bias;
  int64_t key_bias_stride;
};

// A head of a batch row.
struct Place {
  int head;
  int batch_row;
};

__device__ __forceinline__ void LoadKeys(const Maps& maps, Shared& shared, const Place& place) {
  BarrierExpect(&shared.kv_full, SplitTile<kKeys>::kBytes + ValueTile::kBytes);
  const auto load = [&](void* to, const CUtensorMap* map, int column) {
    LoadBox(to, map, &shared.kv_full, column, 0, place.head, place.batch_row);
  };
  load(shared.k.wide, &maps.in.k_wide, 0);
  load(shared.k.rest, &maps.in.k_rest, kWide);
  load(shared.v.part[0], &maps.in.v, 0);
  load(shared.v.part[1], &maps.in.v, kWide);
}

__device__ __forceinline__ void LoadBias(const Sizes& sizes, Shared& shared, int batch_row) {
  const int key = static_cast<int>(threadIdx.x);
  if (key >= kKeys) {
    return;
  }
  float bias = key < sizes.keys ? 0 : -INFINITY;
  if (key < sizes.keys && sizes.key_bias != nullptr) {
    bias = kLog2E * __bfloat162float(sizes.key_bias[batch_row * sizes.key_bias_stride + key]);
  }
  shared.bias[key] = bias;
}

// Probabilities of two rows a thread, and what it needs beside them.
struct Normaliser {
  float maximum[2];
  float sum[2];
};

__device__ __forceinline__ float MaxOverQuad(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}
__device__ __forceinline__ float SumOverQuad(float x) {
  x += __shfl_xor_sync(0xffffffff, x, 1);
  return x + __shfl_xor_sync(0xffffffff, x, 2);
}

__device__ __forceinline__ Normaliser SoftmaxOnce(float (&s)[kScores], const float* bias,
                                                  float scale_log2) {
  const int first = 2 * (static_cast<int>(threadIdx.x) % 4);
  Normaliser row = {{-INFINITY, -INFINITY}, {0, 0}};
#pragma unroll
  for (int i = 0; i < kScores; i += 4) {
    const float2 added = *reinterpret_cast<const float2*>(bias + 2 * i + first);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float& low = s[i + 2 * r];
      float& high = s[i + 2 * r + 1];
      low = fmaf(low, scale_log2, added.x);
      high = fmaf(high, scale_log2, added.y);
      row.maximum[r] = fmaxf(row.maximum[r], fmaxf(low, high));
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    row.maximum[r] = MaxOverQuad(row.maximum[r]);
  }
#pragma unroll
  for (int i = 0; i < kScores; ++i) {
    const int r = i / 2 % 2;
    s[i] = Exp2(s[i] - row.maximum[r]);
    row.sum[r] += s[i];
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    row.sum[r] = SumOverQuad(row.sum[r]);
  }
  return row;
}

// The result where the queries were, in their order: matrices of 8 x 8, rows 0 and 8 of a warp's 16
// of one block of columns and then of the next.
__device__ __forceinline__ void PlaceResult(const float (&o)[kOutputs], const Normaliser& row,
                                            QueryTile& tile) {
  constexpr int kColumns = 8;  // 16 bytes, which swizzling moves as one.
  constexpr int kBlocks = kWide / kColumns;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int query = static_cast<int>(threadIdx.x) / 32 % 4 * 16 + lane % 16;
  const uint32_t wide = SharedAddress(tile.wide) + query * kWide * 2;
  const uint32_t rest = SharedAddress(tile.rest) + query * kRest * 2;
  const float inverse[2] = {1.0F / row.sum[0], 1.0F / row.sum[1]};
  const auto pair = [&](int block, int r) {
    return PackBf16(o[4 * block + 2 * r] * inverse[r], o[4 * block + 2 * r + 1] * inverse[r]);
  };
#pragma unroll
  for (int block = 0; block < kBlocks; block += 2) {
    const uint32_t x[4] = {pair(block, 0), pair(block, 1), pair(block + 1, 0), pair(block + 1, 1)};
    StoreMatrices(wide + (((block + lane / 16) ^ (query % 8)) << 4), x);
  }
  const uint32_t x[4] = {pair(kBlocks, 0), pair(kBlocks, 1), 0, 0};  // Columns beyond the head.
  StoreMatrices(rest + (((lane / 16) ^ (query / 4 % 2)) << 4), x);
}

// The tiles of 64 queries of one warpgroup: every so many of its head.
class Tiles {
 public:
  __device__ __forceinline__ Tiles(const Maps& maps, const Sizes& sizes, Shared& shared,
                                   const Place& place, int block, int warpgroup)
      : maps_(maps),
        sizes_(sizes),
        shared_(shared),
        place_(place),
        warpgroup_(warpgroup),
        first_((block * kWarpgroups + warpgroup) * kWarpgroupRows),
        step_(sizes.blocks * kWarpgroups * kWarpgroupRows) {}

  __device__ __forceinline__ int RowOf(int tile) const { return first_ + tile * step_; }
  __device__ __forceinline__ bool Has(int tile) const { return RowOf(tile) < sizes_.queries; }
  __device__ __forceinline__ QueryTile& SlotOf(int tile) const {
    return shared_.q[warpgroup_][tile % kSlots];
  }

  // By one thread, as Store() is.
  __device__ __forceinline__ void Load(int tile) const {
    uint64_t* full = &shared_.q_full[warpgroup_][tile % kSlots];
    QueryTile& slot = SlotOf(tile);
    BarrierExpect(full, QueryTile::kBytes);
    LoadBox(slot.wide, &maps_.in.q_wide, full, 0, RowOf(tile), place_.head, place_.batch_row);
    LoadBox(slot.rest, &maps_.in.q_rest, full, kWide, RowOf(tile), place_.head, place_.batch_row);
  }
  __device__ __forceinline__ void Wait(int tile) const {
    BarrierWait(&shared_.q_full[warpgroup_][tile % kSlots], tile / kSlots % 2);
  }
  __device__ __forceinline__ void Store(int tile) const {
    const QueryTile& slot = SlotOf(tile);
    StoreBox(&maps_.o_wide, slot.wide, 0, RowOf(tile), place_.head, place_.batch_row);
    StoreBox(&maps_.o_rest, slot.rest, kWide, RowOf(tile), place_.head, place_.batch_row);
    CommitStores();
  }
  __device__ __forceinline__ void StoreLse(int tile, const Normaliser& row, float* lse) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int query = RowOf(tile) + warp * 16 + lane / 4 + 8 * r;
      if (lane % 4 == 0 && query < sizes_.queries) {
        lse[(int64_t{place_.batch_row} * sizes_.heads + place_.head) * sizes_.queries + query] =
            (row.maximum[r] + __log2f(row.sum[r])) * kLn2;
      }
    }
  }

 private:
  const Maps& maps_;
  const Sizes& sizes_;
  Shared& shared_;
  const Place& place_;
  int warpgroup_;
  int first_;
  int step_;
};

__device__ __forceinline__ void Run(const Tiles& tiles, const Sizes& sizes, Shared& shared,
                                    int warpgroup, float* lse) {
  const bool leads = threadIdx.x % kWarpgroupThreads == 0;
  for (int tile = 0; tiles.Has(tile); ++tile) {
    float s[kScores];
    tiles.Wait(tile);
    if (tile == 0) {
      BarrierWait(&shared.kv_full, 0);
    }
    EnqueueScores(tiles.SlotOf(tile), 0, shared.k, s);
    if (leads && tile > 0 && tiles.Has(tile + 1)) {
      WaitForStores();
      tiles.Load(tile + 1);
    }
    cute::warpgroup_wait<0>();
    Fence(s);
    const Normaliser row = SoftmaxOnce(s, shared.bias, sizes.scale_log2);
    uint32_t p[kScores / 2];
    Pack(s, p);
    float o[kOutputs];
    EnqueueValues(p, shared.v, o, false);
    cute::warpgroup_wait<0>();
    Fence(o);
    NamedBarrierSync(1 + warpgroup, kWarpgroupThreads);  // All warps have read the queries.
    PlaceResult(o, row, tiles.SlotOf(tile));
    FenceForCopies();
    NamedBarrierSync(1 + warpgroup, kWarpgroupThreads);
    if (leads) {
      tiles.Store(tile);
    }
    if (lse != nullptr) {
      tiles.StoreLse(tile, row, lse);
    }
  }
  if (leads) {
    WaitForStores();  // Before the memory is gone.
  }
}

__global__ void __launch_bounds__(kThreads, kBlocksAMultiprocessor)
    FewKeysKernel(const __grid_constant__ Maps maps, const Sizes sizes, float* lse) {
  extern __shared__ uint8_t raw[];
  auto& shared = *reinterpret_cast<Shared*>(raw + (1024 - SharedAddress(raw) % 1024) % 1024);
  if (threadIdx.x == 0) {
    BarrierInit(&shared.kv_full, 1);
    for (auto& barriers : shared.q_full) {
      for (uint64_t& barrier : barriers) {
        BarrierInit(&barrier, 1);
      }
    }
    FenceBarrierInit();
  }
  __syncthreads();
  const int unit = static_cast<int>(blockIdx.x) / sizes.blocks;
  const Place place = {unit % sizes.heads, unit / sizes.heads};
  const int warpgroup = static_cast<int>(threadIdx.x) / kWarpgroupThreads;
  const Tiles tiles(maps, sizes, shared, place, static_cast<int>(blockIdx.x) % sizes.blocks,
                    warpgroup);
  if (threadIdx.x == 0) {
    LoadKeys(maps, shared, place);
  }
  if (threadIdx.x % kWarpgroupThreads == 0) {
    for (int tile = 0; tile < kSlots && tiles.Has(tile); ++tile) {
      tiles.Load(tile);
    }
  }
  LoadBias(sizes, shared, place.batch_row);
  __syncthreads();
  Run(tiles, sizes, shared, warpgroup, lse);
}

// Of a head: as many as fill the multiprocessors, and no more than have work.
cudaError_t BlocksOf(const AttentionSm90Args& args, int* blocks) {
  int device = 0;
  int multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  constexpr int kRowsOfBlock = kWarpgroups * kWarpgroupRows;
  const int most = (args.queries + kRowsOfBlock - 1) / kRowsOfBlock;
  const int fill = kBlocksAMultiprocessor * multiprocessors / (args.heads * args.batch);
  *blocks = std::clamp(fill, 1, most);
  return error;
}

}  // namespace

cudaError_t LaunchFewKeys(const AttentionSm90Args& args, cudaStream_t stream) {
  const int64_t row = int64_t{args.heads} * kHead;
  const AttentionOperand o = {args.o, args.queries * row, row, kHead};
  Maps maps;
  if (args.keys > kAttentionSm90FewKeys || !DescribeInputs(args, kWarpgroupRows, kKeys, &maps.in) ||
      !DescribeHeads(o, args.queries, args, kWarpgroupRows, kWide, &maps.o_wide) ||
      !DescribeHeads(o, args.queries, args, kWarpgroupRows, kRest, &maps.o_rest)) {
    return cudaErrorInvalidValue;
  }
  Sizes sizes = {args.queries,        args.keys,
                 args.heads,          0,
                 args.scale * kLog2E, static_cast<const __nv_bfloat16*>(args.key_bias),
                 args.key_bias_stride};
  if (cudaError_t error = BlocksOf(args, &sizes.blocks); error != cudaSuccess) {
    return error;
  }
  constexpr int kSharedBytes = sizeof(Shared) + 1024;
  if (cudaError_t error = cudaFuncSetAttribute(
          FewKeysKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
      error != cudaSuccess) {
    return error;
  }
  const auto blocks = static_cast<unsigned>(sizes.blocks * args.heads * args.batch);
  FewKeysKernel<<<blocks, kThreads, kSharedBytes, stream>>>(maps, sizes, args.lse);
  return cudaGetLastError();
}

}  // namespace patchflow::attention_sm90
