#include "engine/kernels/attention_sm90.h"

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "engine/kernels/attention_sm90_maps.h"
#include "engine/kernels/attention_sm90_tile.cuh"
#include "engine/kernels/attention_sm90_units.cuh"
#include "engine/kernels/merge_attention.h"

namespace patchflow {
namespace {

using namespace attention_sm90;  // NOLINT(google-build-using-namespace)

// Tiles in flight: warpgroups drift apart by so many, which hides their waits better than turns.
constexpr int kStages = 3;

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

template <int kConsumers>
__device__ __forceinline__ void LoadQueries(const InputMaps& maps, Shared<kConsumers>& shared,
                                            const Unit& unit) {
  BarrierExpect(&shared.q_full, shared.q.kBytes);
  LoadBox(shared.q.wide, &maps.q_wide, &shared.q_full, 0, unit.first_row, unit.head,
          unit.batch_row);
  LoadBox(shared.q.rest, &maps.q_rest, &shared.q_full, kWide, unit.first_row, unit.head,
          unit.batch_row);
}

// Each block of a cluster loads its share of every tile, for all of them. `before`: tiles that were
// loaded before these.
template <int kConsumers, int kBlocks>
__device__ __forceinline__ void Produce(const InputMaps& maps, Shared<kConsumers>& shared,
                                        const Unit& unit, int before) {
  constexpr int kShare = kKeys / kBlocks;
  constexpr auto kAll = static_cast<uint16_t>((1 << kBlocks) - 1);
  const int first = kBlocks == 1 ? 0 : static_cast<int>(BlockInCluster()) * kShare;
  const auto load = [&](void* to, const CUtensorMap* map, uint64_t* barrier, int column, int key) {
    if (kBlocks == 1) {
      LoadBox(to, map, barrier, column, key, unit.head, unit.batch_row);
    } else {
      LoadBoxForAll(to, map, barrier, column, key, unit.head, unit.batch_row, kAll);
    }
  };
  for (int tile = 0; tile < unit.tiles; ++tile) {
    const int stage = (before + tile) % kStages;
    const uint32_t parity = (before + tile) / kStages % 2;
    const int key = (unit.first_tile + tile) * kKeys + first;
    auto& k = shared.k[stage];
    BarrierWait(&shared.k_empty[stage], parity ^ 1);
    BarrierExpect(&shared.k_full[stage], k.kBytes);
    load(k.wide + first * kWide, &maps.k_wide, &shared.k_full[stage], 0, key);
    load(k.rest + first * kRest, &maps.k_rest, &shared.k_full[stage], kWide, key);
    auto& v = shared.v[stage];
    BarrierWait(&shared.v_empty[stage], parity ^ 1);
    BarrierExpect(&shared.v_full[stage], v.kBytes);
    load(v.part[0] + first * kWide, &maps.v, &shared.v_full[stage], 0, key);
    load(v.part[1] + first * kWide, &maps.v, &shared.v_full[stage], kWide, key);
  }
}

// All tiles of one warpgroup's 64 rows, of which `keys` keys count: the scores of a tile are
// multiplied while the values of the tile before are, and its softmax runs under the latter.
// kTracks: against overflow, the softmax looks for every tile's maxima.
template <bool kTracks, bool kBiased, int kBlocks, int kConsumers>
__device__ __forceinline__ void Consume(Shared<kConsumers>& shared, int row, const Unit& unit,
                                        int before, const Sizes& sizes, float (&o)[kOutputs],
                                        Softmax& softmax) {
  const int lane = threadIdx.x % 32;
  const int keys = sizes.keys - unit.first_tile * kKeys;
  const auto stage_of = [before](int tile) { return (before + tile) % kStages; };
  const auto parity_of = [before](int tile) { return (before + tile) / kStages % 2; };
  const auto release = [lane](uint64_t* barrier) {
    if (kBlocks == 1 && lane == 0) {
      BarrierArrive(barrier);
    } else if (kBlocks > 1 && lane < kBlocks) {
      BarrierArriveAt(barrier, lane);
    }
  };
  float s[kScores];
  uint32_t p[kScores / 2];
  float rescale[2];
  const auto soften = [&](int tile) -> bool {
    if (kBiased) {
      AddKeyBias(s, sizes.key_bias + unit.batch_row * sizes.key_bias_stride, tile * kKeys, keys,
                 lane, sizes.scale_log2);
    } else if (tile == unit.tiles - 1) {
      MaskBeyond(s, tile * kKeys, keys, lane);
    }
    if (kTracks || tile == 0) {
      return softmax.Update(s, kBiased ? 1.0F : sizes.scale_log2, rescale);
    }
    softmax.UpdateByFirst(s, sizes.scale_log2);
    return false;
  };

  BarrierWait(&shared.q_full, 0);
  BarrierWait(&shared.k_full[stage_of(0)], parity_of(0));
  EnqueueScores(shared.q, row, shared.k[stage_of(0)], s);
  cute::warpgroup_wait<0>();
  Fence(s);
  release(&shared.k_empty[stage_of(0)]);
  soften(0);
  Pack(s, p);
  if (unit.tiles > 1) {
    BarrierWait(&shared.k_full[stage_of(1)], parity_of(1));
  }

  for (int tile = 1; tile < unit.tiles; ++tile) {
    const int stage = stage_of(tile);
    const int stage_before = stage_of(tile - 1);
    EnqueueScores(shared.q, row, shared.k[stage], s);
    BarrierWait(&shared.v_full[stage_before], parity_of(tile - 1));
    EnqueueValues(p, shared.v[stage_before], o, tile > 1);
    cute::warpgroup_wait<1>();
    Fence(s);
    release(&shared.k_empty[stage]);
    const bool grown = soften(tile);
    // The barrier's address needs every power: else ptxas moves the waits above them.
    const int next = tile + 1 < unit.tiles ? tile + 1 : tile;
    const bool never = softmax.sum[0] + softmax.sum[1] < 0;
    BarrierWait(&shared.k_full[never ? 0 : stage_of(next)], parity_of(next));
    cute::warpgroup_wait<0>();
    Fence(o);
    release(&shared.v_empty[stage_before]);
    if (grown) {
      Scale(o, rescale);
    }
    Pack(s, p);
  }
  const int last = stage_of(unit.tiles - 1);
  BarrierWait(&shared.v_full[last], parity_of(unit.tiles - 1));
  EnqueueValues(p, shared.v[last], o, unit.tiles > 1);
  cute::warpgroup_wait<0>();
  Fence(o);
  release(&shared.v_empty[last]);
}

// Whether a first try leaves maxima of all tiles but the first alone. Blocks of a cluster, which
// load for each other, could not try again on their own.
template <bool kBiased, int kBlocks>
constexpr bool kTries = !kBiased && kBlocks == 1;

template <int kConsumers, bool kBiased, int kBlocks>
__global__ void __launch_bounds__(kWarpgroupThreads*(kConsumers + 1), 1)
    AttentionKernel(const __grid_constant__ InputMaps maps, const Sizes sizes, __nv_bfloat16* out,
                    float* lse, const Parts parts) {
  extern __shared__ uint8_t raw[];
  auto& shared =
      *reinterpret_cast<Shared<kConsumers>*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~1023ULL);
  if (threadIdx.x == 0) {
    BarrierInit(&shared.q_full, 1);
    for (int stage = 0; stage < kStages; ++stage) {
      BarrierInit(&shared.k_full[stage], 1);
      BarrierInit(&shared.v_full[stage], 1);
      BarrierInit(&shared.k_empty[stage], 4 * kConsumers * kBlocks);
      BarrierInit(&shared.v_empty[stage], 4 * kConsumers * kBlocks);
    }
    FenceBarrierInit();
  }
  const auto synchronize = [] {
    if (kBlocks == 1) {
      __syncthreads();
    } else {
      __syncwarp();
      ClusterSync();
    }
  };
  synchronize();

  constexpr bool kTry = kTries<kBiased, kBlocks>;
  constexpr int kRows = kConsumers * kWarpgroupRows;
  constexpr bool kSplits = kConsumers == 3;
  const Unit unit = UnitOf<kRows, kSplits>(sizes);
  const int warpgroup = threadIdx.x / kWarpgroupThreads;
  if (warpgroup == kConsumers) {
    GiveRegisters<kConsumers == 3 ? 32 : 24>();
    const bool loads = threadIdx.x == kConsumers * kWarpgroupThreads;
    if (loads) {
      LoadQueries(maps, shared, unit);
      Produce<kConsumers, kBlocks>(maps, shared, unit, 0);
    }
    if (kTry && __syncthreads_or(0) != 0 && loads) {
      Produce<kConsumers, kBlocks>(maps, shared, unit, unit.tiles);
    }
  } else {
    KeepRegisters<kConsumers == 3 ? 160 : 240>();
    const int row = warpgroup * kWarpgroupRows;
    float o[kOutputs];
    Softmax softmax;
    Consume<!kTry, kBiased, kBlocks>(shared, row, unit, 0, sizes, o, softmax);
    if (kTry && __syncthreads_or(static_cast<int>(!softmax.Fits())) != 0) {
      softmax = Softmax();
      Consume<true, kBiased, kBlocks>(shared, row, unit, unit.tiles, sizes, o, softmax);
    }
    softmax.Finish();
    if (!kSplits || unit.piece < 0) {
      Store<kBiased>(o, softmax, unit.first_row + row, unit, sizes, out, lse);
    } else {
      StorePart(o, softmax, unit.first_row + row, sizes.whole_blocks * kRows, unit, sizes, parts);
    }
  }
  if (kBlocks > 1) {
    synchronize();  // The others of the cluster write here and arrive here until they end.
  }
}

int RowsOf(AttentionSm90Schedule schedule) {
  return kWarpgroupRows * (schedule == AttentionSm90Schedule::kThree ? 3 : 2);
}

// Rows of every head that whole blocks compute.
int WholeRows(const AttentionSm90Args& args, const AttentionSm90Tiling& tiling) {
  const int rows = RowsOf(tiling.schedule);
  return ((args.queries + rows - 1) / rows - tiling.split_blocks) * rows;
}

Parts PartsOf(const AttentionSm90Args& args, const AttentionSm90Tiling& tiling) {
  const int64_t rows = int64_t{args.batch} * args.heads * (args.queries - WholeRows(args, tiling));
  return {args.workspace, args.workspace + tiling.pieces * rows * kHead};
}

template <int kConsumers, bool kBiased, int kBlocks>
cudaError_t Launch(const AttentionSm90Args& args, const AttentionSm90Tiling& tiling,
                   cudaStream_t stream) {
  constexpr int kRows = kConsumers * kWarpgroupRows;
  InputMaps maps;
  if (!DescribeInputs(args, kRows, kKeys / kBlocks, &maps)) {
    return cudaErrorInvalidValue;
  }
  constexpr int kSharedBytes = sizeof(Shared<kConsumers>) + 1024;
  constexpr auto kKernel = AttentionKernel<kConsumers, kBiased, kBlocks>;
  // Set at every launch: it is of the current device, and costs a microsecond.
  if (cudaError_t error =
          cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
      error != cudaSuccess) {
    return error;
  }
  const int blocks = (args.queries + kRows - 1) / kRows;
  const int whole_blocks = (blocks - tiling.split_blocks + kBlocks - 1) / kBlocks * kBlocks;
  const Sizes sizes = {args.queries,
                       args.keys,
                       args.heads,
                       args.scale * kLog2E,
                       static_cast<const __nv_bfloat16*>(args.key_bias),
                       args.key_bias_stride,
                       args.batch,
                       whole_blocks,
                       tiling.split_blocks,
                       tiling.pieces};
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kBlocks, 1, 1};
  cudaLaunchConfig_t launch{};
  launch.gridDim =
      dim3((whole_blocks + tiling.split_blocks * tiling.pieces) * args.heads * args.batch);
  launch.blockDim = dim3(kWarpgroupThreads * (kConsumers + 1));
  launch.dynamicSmemBytes = kSharedBytes;
  launch.stream = stream;
  launch.attrs = &cluster;
  launch.numAttrs = 1;
  return cudaLaunchKernelEx(&launch, kKernel, maps, sizes, static_cast<__nv_bfloat16*>(args.o),
                            args.lse, PartsOf(args, tiling));
}

cudaError_t Merge(const AttentionSm90Args& args, const AttentionSm90Tiling& tiling,
                  cudaStream_t stream) {
  const int before = WholeRows(args, tiling);
  const int64_t rows = int64_t{args.batch} * args.heads * (args.queries - before);
  const Parts parts = PartsOf(args, tiling);
  MergeAttentionArgs merge;
  for (int piece = 0; piece < tiling.pieces; ++piece) {
    merge.o[piece] = parts.o + piece * rows * kHead;
    merge.lse[piece] = parts.lse + piece * rows;
  }
  merge.parts = tiling.pieces;
  merge.float_parts = true;
  merge.batch = args.batch;
  merge.queries = args.queries - before;
  merge.heads = args.heads;
  merge.head_size = kHead;
  merge.out = static_cast<__nv_bfloat16*>(args.o) + int64_t{before} * args.heads * kHead;
  merge.out_batch_stride = int64_t{args.queries} * args.heads * kHead;
  merge.out_lse = args.lse == nullptr ? nullptr : args.lse + before;
  merge.out_lse_head_stride = args.queries;
  return LaunchMergeAttention(merge, stream);
}

bool CanSplit(const AttentionSm90Args& args, const AttentionSm90Tiling& tiling) {
  return tiling.schedule == AttentionSm90Schedule::kThree && tiling.pieces >= 2 &&
         tiling.pieces <= kAttentionSm90MostPieces && tiling.split_blocks >= 1 &&
         WholeRows(args, tiling) >= 0 && (args.keys + kKeys - 1) / kKeys >= tiling.pieces &&
         args.workspace != nullptr;
}

}  // namespace

int64_t AttentionSm90WorkspaceFloats(const AttentionSm90Args& args,
                                     const AttentionSm90Tiling& tiling) {
  return tiling.split_blocks == 0 ? 0
                                  : int64_t{tiling.pieces} * args.batch * args.heads *
                                        (args.queries - WholeRows(args, tiling)) * (kHead + 1);
}

cudaError_t LaunchAttentionSm90(const AttentionSm90Args& args, const AttentionSm90Tiling& tiling,
                                cudaStream_t stream) {
  if (args.keys < 1 || args.queries < 1 || args.batch < 1 || args.heads < 1) {
    return cudaErrorInvalidValue;
  }
  if (args.key_bias != nullptr && tiling.schedule != AttentionSm90Schedule::kTwo &&
      tiling.schedule != AttentionSm90Schedule::kFewKeys) {
    return cudaErrorInvalidValue;
  }
  if (tiling.split_blocks != 0) {
    if (!CanSplit(args, tiling)) {
      return cudaErrorInvalidValue;
    }
    const cudaError_t error = Launch<3, false, 1>(args, tiling, stream);
    return error == cudaSuccess ? Merge(args, tiling, stream) : error;
  }
  switch (tiling.schedule) {
    case AttentionSm90Schedule::kTwo:
      return args.key_bias != nullptr ? Launch<2, true, 1>(args, tiling, stream)
                                      : Launch<2, false, 1>(args, tiling, stream);
    case AttentionSm90Schedule::kTwoPaired:
      return Launch<2, false, 2>(args, tiling, stream);
    case AttentionSm90Schedule::kFewKeys:
      return attention_sm90::LaunchFewKeys(args, stream);
    case AttentionSm90Schedule::kThree:
      break;
  }
  return Launch<3, false, 1>(args, tiling, stream);
}

}  // namespace patchflow
