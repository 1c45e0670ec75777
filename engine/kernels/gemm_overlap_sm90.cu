#include <cuda_runtime.h>

#include <algorithm>
#include <utility>

#include "engine/kernels/gemm_overlap_sm90_tile.cuh"
#include "engine/kernels/tensor_map.h"

// The products of gemm_sm90.h in tiles of 128 x 192 whose epilogue runs under the product of the
// next tile: two accumulators a warpgroup, so that tensor cores work on one while the other is
// finished and stored. Inputs of 1152 are but 18 steps a tile, so that its end would weigh.
namespace patchflow::gemm_sm90 {
namespace {

// Tiles of a cluster, in order: the columns of a pair of row tiles one after the other.
__device__ __forceinline__ Tile TileOf(const Job& job, int pair, uint32_t block) {
  return {(pair / job.column_tiles * kCluster + static_cast<int>(block)) * kRows,
          pair % job.column_tiles * kColumns};
}
__device__ __forceinline__ int FirstPair() { return static_cast<int>(blockIdx.x) / kCluster; }
__device__ __forceinline__ int Clusters() { return static_cast<int>(gridDim.x) / kCluster; }

__device__ __forceinline__ void LoadOperands(const Job& job, Shared& shared, uint32_t block) {
  constexpr int kShare = kColumns / kCluster;
  constexpr uint16_t kAll = (1 << kCluster) - 1;
  Place place;
  for (int pair = FirstPair(); pair < job.pairs; pair += Clusters()) {
    const Tile tile = TileOf(job, pair, block);
    for (int step = 0; step < job.steps; ++step) {
      uint64_t* full = &shared.full[place.stage];
      BarrierWait(&shared.empty[place.stage], place.parity ^ 1);
      BarrierExpect(full, kStageBytes);
      LoadBox(shared.x[place.stage], &job.x, full, step * kDepth, tile.row);
      const int first = static_cast<int>(block) * kShare;
      LoadBoxForAll(shared.weight[place.stage] + first * kDepth, &job.weight, full, step * kDepth,
                    tile.column + first, kAll);
      place.Advance();
    }
  }
}

__device__ __forceinline__ void LoadResiduals(const Job& job, Shared& shared, uint32_t block) {
  uint32_t parity = 0;
  for (int pair = FirstPair(); pair < job.pairs; pair += Clusters()) {
    const Tile tile = TileOf(job, pair, block);
    for (int w = 0; w < kWarpgroups; ++w) {
      BarrierWait(&shared.residual_empty[w], parity ^ 1);
      BarrierExpect(&shared.residual_full[w], kEndBytes);
      for (int box = 0; box < kBoxes; ++box) {
        LoadBox(shared.end[w][box], &job.residual, &shared.residual_full[w],
                tile.column + box * kDepth, tile.row + w * kWarpgroupRows);
      }
    }
    parity ^= 1;
  }
}

template <GemmEpilogue kEpilogue, size_t... kChunk>
__device__ __forceinline__ void FinishAll(End<kEpilogue>& end, const float (&sums)[kSums],
                                          std::index_sequence<kChunk...>) {
  end.Begin();
  (end.template Finish<kChunk>(sums), ...);
  end.Store();
}

template <GemmEpilogue kEpilogue, size_t... kChunk>
__device__ __forceinline__ void StepsWithChunks(Steps& steps, End<kEpilogue>& end, bool finish,
                                                float (&sums)[kSums], const float (&before)[kSums],
                                                std::index_sequence<kChunk...>) {
  const auto step = [&](auto chunk) {
    steps.Enqueue(sums, true);
    if (finish) {
      end.template Finish<decltype(chunk)::value>(before);
    }
    steps.ReleaseBefore();
  };
  (step(std::integral_constant<int, kChunk>()), ...);
}

// The product of one tile, and under it the end of the tile before, if there was one.
template <GemmEpilogue kEpilogue>
__device__ __forceinline__ void RunTile(const Job& job, Steps& steps, End<kEpilogue>& end,
                                        bool finish, float (&sums)[kSums], float (&before)[kSums]) {
  steps.Enqueue(sums, false);
  steps.Advance();
  for (int i = 1; i < kFirstChunkStep; ++i) {
    steps.Enqueue(sums, true);
    steps.ReleaseBefore();
  }
  if (finish) {
    end.Begin();
  }
  StepsWithChunks(steps, end, finish, sums, before, std::make_index_sequence<kChunks>());
  if (finish) {
    end.Store();
  }
  for (int i = kFirstChunkStep + kChunks; i < job.steps; ++i) {
    steps.Enqueue(sums, true);
    steps.ReleaseBefore();
  }
  if (finish) {
    end.Release();
  }
  steps.Drain(sums);
}

template <GemmEpilogue kEpilogue>
__device__ __forceinline__ void Consume(const Job& job, Shared& shared, uint32_t block,
                                        int warpgroup) {
  float even[kSums];
  float odd[kSums];
  Steps steps(shared, warpgroup);
  End<kEpilogue> end(job, shared, warpgroup);
  int pair = FirstPair();
  bool finish = false;
  bool last_is_odd = false;
  while (pair < job.pairs) {
    RunTile(job, steps, end, finish, even, odd);
    end.Aim(TileOf(job, pair, block));
    finish = true;
    last_is_odd = false;
    pair += Clusters();
    if (pair >= job.pairs) {
      break;
    }
    RunTile(job, steps, end, true, odd, even);
    end.Aim(TileOf(job, pair, block));
    last_is_odd = true;
    pair += Clusters();
  }
  if (!finish) {
    return;
  }
  if (last_is_odd) {
    FinishAll(end, odd, std::make_index_sequence<kChunks>());
  } else {
    FinishAll(end, even, std::make_index_sequence<kChunks>());
  }
  end.Leave();
}

template <GemmEpilogue kEpilogue>
__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1)
    GemmKernel(const __grid_constant__ Job job) {
  extern __shared__ uint8_t raw[];
  auto& shared = *reinterpret_cast<Shared*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~1023ULL);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      BarrierInit(&shared.full[stage], 1);
      BarrierInit(&shared.empty[stage], kCluster * kWarpgroups * 4);
    }
    for (int w = 0; w < kWarpgroups; ++w) {
      BarrierInit(&shared.residual_full[w], 1);
      BarrierInit(&shared.residual_empty[w], 1);
    }
    FenceBarrierInit();
  }
  ClusterSync();
  const uint32_t block = BlockInCluster();
  const int warpgroup = static_cast<int>(threadIdx.x) / kWarpgroupThreads;
  if (warpgroup == kWarpgroups) {
    GiveRegisters<24>();
    const int thread = static_cast<int>(threadIdx.x) % kWarpgroupThreads;
    if (thread == 0) {
      LoadOperands(job, shared, block);
    } else if (thread == 32 && kEpilogue == GemmEpilogue::kBiasResidual) {
      LoadResiduals(job, shared, block);
    }
  } else {
    KeepRegisters<240>();
    Consume<kEpilogue>(job, shared, block, warpgroup);
  }
  __syncwarp();
  ClusterSync();  // Nobody may still send to a block that is gone.
}

template <GemmEpilogue kEpilogue>
cudaError_t Launch(const GemmSm90Args& args, cudaStream_t stream) {
  Job job;
  const void* residual = kEpilogue == GemmEpilogue::kBiasResidual ? args.residual : args.y;
  if (!DescribeMatrix(args.x, args.rows, args.in, kRows, &job.x) ||
      !DescribeMatrix(args.weight, args.out, args.in, kColumns / kCluster, &job.weight) ||
      !DescribeMatrix(residual, args.rows, args.out, kWarpgroupRows, &job.residual) ||
      !DescribeMatrix(args.y, args.rows, args.out, kWarpgroupRows, &job.y)) {
    return cudaErrorInvalidValue;
  }
  job.bias = static_cast<const __nv_bfloat16*>(args.bias);
  job.gate = args.gate;
  job.out = args.out;
  job.steps = (args.in + kDepth - 1) / kDepth;
  job.column_tiles = (args.out + kColumns - 1) / kColumns;
  job.pairs = (args.rows + kRows * kCluster - 1) / (kRows * kCluster) * job.column_tiles;
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
  constexpr int kSharedBytes = sizeof(Shared) + 1024;
  if (cudaError_t error = cudaFuncSetAttribute(
          GemmKernel<kEpilogue>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
      error != cudaSuccess) {
    return error;
  }
  const int clusters = std::min(multiprocessors / kCluster, job.pairs);
  GemmKernel<kEpilogue><<<clusters * kCluster, kThreads, kSharedBytes, stream>>>(job);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchOverlapped(const GemmSm90Args& args, GemmEpilogue epilogue, cudaStream_t stream) {
  switch (epilogue) {
    case GemmEpilogue::kBias:
      return Launch<GemmEpilogue::kBias>(args, stream);
    case GemmEpilogue::kBiasGelu:
      return Launch<GemmEpilogue::kBiasGelu>(args, stream);
    case GemmEpilogue::kBiasResidual:
      break;
  }
  return Launch<GemmEpilogue::kBiasResidual>(args, stream);
}

}  // namespace patchflow::gemm_sm90
