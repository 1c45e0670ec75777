// One warpgroup's share of a tile of 128 x 192: the steps of its product, and its end.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <utility>

#define CUTE_SM90_EXTENDED_MMA_SHAPES_ENABLED
#include <cute/arch/mma_sm90.hpp>
#include <cute/arch/mma_sm90_gmma.hpp>

#include "engine/kernels/gemm_sm90.h"
#include "engine/kernels/sm90.cuh"

namespace patchflow::gemm_sm90 {

using namespace sm90;  // NOLINT(google-build-using-namespace)
namespace gmma = cute::SM90::GMMA;

constexpr int kRows = 128;     // Of a tile: two warpgroups of 64.
constexpr int kColumns = 192;  // Of a tile.
constexpr int kDepth = 64;     // Of what a stage holds: rows of 128 bytes, swizzled.
constexpr int kStages = 4;
constexpr int kCluster = 2;  // Tiles one below the other, which share the weights.
constexpr int kWarpgroups = 2;
constexpr int kWarpgroupRows = 64;
constexpr int kWarpgroupThreads = 128;
constexpr int kThreads = (kWarpgroups + 1) * kWarpgroupThreads;
constexpr int kSums = kColumns / 2;  // Accumulators a thread: 64 x 192 over 128 threads.
constexpr int kChunkColumns = 16;    // Finished at a time.
constexpr int kChunks = kColumns / kChunkColumns;
constexpr int kChunkSums = kSums / kChunks;
constexpr int kFirstChunkStep = 4;  // Steps that the residual has to arrive.
constexpr int kBoxes = kColumns / kDepth;
constexpr uint32_t kStageBytes = (kRows + kColumns) * kDepth * 2;
constexpr uint32_t kEndBytes = kWarpgroupRows * kColumns * 2;

struct Shared {
  alignas(1024) __nv_bfloat16 x[kStages][kRows * kDepth];
  alignas(1024) __nv_bfloat16 weight[kStages][kColumns * kDepth];
  // Residual in, result out: boxes of 64 columns.
  alignas(1024) __nv_bfloat16 end[kWarpgroups][kBoxes][kWarpgroupRows * kDepth];
  uint64_t full[kStages];
  uint64_t empty[kStages];
  uint64_t residual_full[kWarpgroups];
  uint64_t residual_empty[kWarpgroups];
};

struct Job {
  CUtensorMap x;
  CUtensorMap weight;
  CUtensorMap residual;
  CUtensorMap y;
  const __nv_bfloat16* bias;
  const float* gate;
  int out;
  int steps;  // Of kDepth.
  int column_tiles;
  int pairs;  // Of tiles one below the other.
};

// Where a tile begins in y.
struct Tile {
  int row;
  int column;
};

// A place in the ring of stages.
struct Place {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

using Op = gmma::MMA_64x192x16_F32BF16BF16_SS<gmma::Major::K, gmma::Major::K>;

template <size_t... kI>
__device__ __forceinline__ void Multiply(uint64_t a, uint64_t b, float (&d)[kSums], bool accumulate,
                                         std::index_sequence<kI...>) {
  Op::fma(a, b, d[kI]..., accumulate ? gmma::ScaleOut::One : gmma::ScaleOut::Zero);
}

__device__ __forceinline__ void Fence(float (&sums)[kSums]) {
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    cute::warpgroup_fence_operand(sums[i]);
  }
}

__device__ __forceinline__ float TanhGelu(float x) {
  float t;
  const float u = x * fmaf(0.0356774081F * x, x, 0.7978845608F);
  asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(u));
  const float half = 0.5F * x;
  return fmaf(half, t, half);
}

// What a thread needs to finish a tile of its warpgroup.
template <GemmEpilogue kEpilogue>
class End {
 public:
  __device__ __forceinline__ End(const Job& job, Shared& shared, int warpgroup)
      : job_(job), shared_(shared), warpgroup_(warpgroup) {
    const int row = Warp() * 16 + Lane() / 8 % 2 * 8 + Lane() % 8;
    row_address_ = SharedAddress(shared.end[warpgroup][0]) + row * kDepth * 2;
  }

  __device__ __forceinline__ void Aim(const Tile& tile) { tile_ = tile; }

  // Memory of the result is there, and what is to be added in it.
  __device__ __forceinline__ void Begin() {
    if (kEpilogue == GemmEpilogue::kBiasResidual) {
      BarrierWait(&shared_.residual_full[warpgroup_], parity_);
      parity_ ^= 1;
    } else {
      if (First()) {
        WaitForStores();
      }
      Sync();
    }
  }

  template <int kChunk>
  __device__ __forceinline__ void Finish(const float (&sums)[kSums]) const {
    const uint32_t address = ChunkAddress(kChunk);
    uint32_t packed[4];
    if (kEpilogue == GemmEpilogue::kBiasResidual) {
      LoadMatrices(address, packed);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int column = tile_.column + kChunk * kChunkColumns + 8 * h + Lane() % 4 * 2;
      const bool there = column < job_.out;
      float2 bias = {0, 0};
      float2 gate = {1, 1};
      if (there && job_.bias != nullptr) {
        bias = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(job_.bias + column));
      }
      if (kEpilogue == GemmEpilogue::kBiasResidual && there && job_.gate != nullptr) {
        gate = *reinterpret_cast<const float2*>(job_.gate + column);
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float low = sums[kChunk * kChunkSums + 4 * h + 2 * r] + bias.x;
        float high = sums[kChunk * kChunkSums + 4 * h + 2 * r + 1] + bias.y;
        uint32_t& pair = packed[2 * h + r];
        if (kEpilogue == GemmEpilogue::kBiasGelu) {
          low = TanhGelu(low);
          high = TanhGelu(high);
        } else if (kEpilogue == GemmEpilogue::kBiasResidual) {
          low = fmaf(gate.x, low, __uint_as_float(pair << 16));
          high = fmaf(gate.y, high, __uint_as_float(pair & 0xFFFF0000U));
        }
        pair = PackBf16(low, high);
      }
    }
    StoreMatrices(address, packed);
  }

  __device__ __forceinline__ void Store() const {
    FenceForCopies();
    Sync();
    if (First()) {
      for (int box = 0; box < kBoxes; ++box) {
        StoreBox(&job_.y, shared_.end[warpgroup_][box], tile_.column + box * kDepth,
                 tile_.row + warpgroup_ * kWarpgroupRows);
      }
      CommitStores();
    }
  }

  // Before the memory is gone.
  __device__ __forceinline__ void Leave() const {
    if (First()) {
      WaitForStores();
    }
  }

  // Once the store has read the memory, the next residual may come.
  __device__ __forceinline__ void Release() const {
    if (kEpilogue == GemmEpilogue::kBiasResidual && First()) {
      WaitForStores();
      BarrierArrive(&shared_.residual_empty[warpgroup_]);
    }
  }

 private:
  static __device__ __forceinline__ int Lane() { return static_cast<int>(threadIdx.x) % 32; }
  static __device__ __forceinline__ int Warp() { return static_cast<int>(threadIdx.x) / 32 % 4; }
  static __device__ __forceinline__ bool First() { return threadIdx.x % kWarpgroupThreads == 0; }
  __device__ __forceinline__ void Sync() const {
    NamedBarrierSync(1 + warpgroup_, kWarpgroupThreads);
  }

  // Of this lane's row in the matrices of 8 x 8: rows 0 and 8 of the first 8 columns, then of the
  // second.
  __device__ __forceinline__ uint32_t ChunkAddress(int chunk) const {
    constexpr int kPerBox = kDepth / kChunkColumns;
    const int block = chunk % kPerBox * 2 + Lane() / 16;
    return row_address_ + chunk / kPerBox * kWarpgroupRows * kDepth * 2 +
           ((block ^ (Lane() % 8)) << 4);
  }

  const Job& job_;
  Shared& shared_;
  int warpgroup_;
  uint32_t row_address_;
  uint32_t parity_ = 0;
  Tile tile_ = {0, 0};
};

// A warpgroup's way through the steps of all its tiles.
class Steps {
 public:
  __device__ __forceinline__ Steps(Shared& shared, int warpgroup)
      : shared_(shared), row_(warpgroup * kWarpgroupRows) {}

  // Enqueues one step of the product.
  __device__ __forceinline__ void Enqueue(float (&sums)[kSums], bool accumulate) {
    BarrierWait(&shared_.full[place_.stage], place_.parity);
    const uint64_t a = Descriptor(shared_.x[place_.stage] + row_ * kDepth, Swizzle::k128, 16, 1024);
    const uint64_t b = Descriptor(shared_.weight[place_.stage], Swizzle::k128, 16, 1024);
    Fence(sums);
    cute::warpgroup_arrive();
#pragma unroll
    for (int i = 0; i < kDepth / 16; ++i) {
      Multiply(sm90::Advance(a, 32 * i), sm90::Advance(b, 32 * i), sums, accumulate || i > 0,
               std::make_index_sequence<kSums>());
    }
    cute::warpgroup_commit_batch();
    Fence(sums);
  }

  // After the first step of a tile.
  __device__ __forceinline__ void Advance() {
    before_ = place_.stage;
    place_.Advance();
  }

  // Waits for the step before the one enqueued last, and frees its stage in all blocks.
  __device__ __forceinline__ void ReleaseBefore() {
    cute::warpgroup_wait<1>();
    Free(before_);
    Advance();
  }

  // After the last step of a tile.
  __device__ __forceinline__ void Drain(float (&sums)[kSums]) {
    cute::warpgroup_wait<0>();
    Fence(sums);
    Free(before_);
  }

 private:
  __device__ __forceinline__ void Free(int stage) const {
    const uint32_t lane = threadIdx.x % 32;
    if (lane < kCluster) {
      BarrierArriveAt(&shared_.empty[stage], lane);
    }
  }

  Shared& shared_;
  int row_;
  Place place_;
  int before_ = 0;
};

}  // namespace patchflow::gemm_sm90
