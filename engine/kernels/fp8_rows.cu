#include "engine/kernels/fp8_rows.cuh"

namespace patchflow {
namespace {

// A row, packed in registers between its two uses. threadIdx.x of `kThreads` threads holds the
// columns from kVector * threadIdx.x on, every kVector * kThreads.
template <int kPasses, int kThreads>
class PackedRow {
 public:
  __device__ __forceinline__ PackedRow(const Fp8RowsArgs& args, int64_t row)
      : args_(args), row_(row) {
    const auto* from = static_cast<const __nv_bfloat16*>(args.x) + row * args.width;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int column = ColumnOf(pass);
      packed_[pass] =
          column < args.width ? *reinterpret_cast<const uint4*>(from + column) : uint4{};
    }
  }

  // Of this thread's columns.
  __device__ __forceinline__ float Amax() const {
    float amax = kFp8LeastAmax;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      float x[kVector];
      LoadVector(reinterpret_cast<const __nv_bfloat16*>(&packed_[pass]), x);
      amax = LargestOf(x, amax);
    }
    return amax;
  }

  // amax: of the row.
  __device__ __forceinline__ void Store(float amax) const {
    const float factor = ScaleRow(amax, args_.row_scale + row_);
    auto* to = static_cast<uint8_t*>(args_.y) + row_ * args_.width;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int column = ColumnOf(pass);
      if (column < args_.width) {
        float x[kVector];
        LoadVector(reinterpret_cast<const __nv_bfloat16*>(&packed_[pass]), x);
        StoreFp8Vector(x, factor, to + column);
      }
    }
  }

 private:
  __device__ __forceinline__ static int ColumnOf(int pass) {
    return (pass * kThreads + static_cast<int>(threadIdx.x)) * kVector;
  }

  const Fp8RowsArgs& args_;
  int64_t row_;
  uint4 packed_[kPasses];
};

template <int kPasses>
__global__ void __launch_bounds__(kLanes* kRowsPerBlock) Fp8RowsKernel(const Fp8RowsArgs args) {
  const int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.y;
  if (row >= args.rows) {
    return;
  }
  const PackedRow<kPasses, kLanes> packed(args, row);
  packed.Store(MaxOverWarp(packed.Amax()));
}

template <int kPasses>
cudaError_t Launch(const Fp8RowsArgs& args, cudaStream_t stream) {
  Fp8RowsKernel<kPasses><<<BlocksOf(args.rows), dim3(kLanes, kRowsPerBlock), 0, stream>>>(args);
  return cudaGetLastError();
}

constexpr int kWideThreads = 192;  // 3 vectors each of the 4608 features within an MLP.
constexpr int kWideWarps = kWideThreads / kLanes;
constexpr int kColumnsPerWidePass = kWideThreads * kVector;

// A block a row: where a warp would hold so much of it that few warps are left to hide the wait.
template <int kPasses>
__global__ void __launch_bounds__(kWideThreads) WideFp8RowsKernel(const Fp8RowsArgs args) {
  __shared__ float amax_of_warp[kWideWarps];
  const PackedRow<kPasses, kWideThreads> packed(args, blockIdx.x);
  float amax = MaxOverWarp(packed.Amax());
  if (threadIdx.x % kLanes == 0) {
    amax_of_warp[threadIdx.x / kLanes] = amax;
  }
  __syncthreads();
#pragma unroll
  for (int warp = 0; warp < kWideWarps; ++warp) {
    amax = fmaxf(amax, amax_of_warp[warp]);
  }
  packed.Store(amax);
}

template <int kPasses>
cudaError_t LaunchWide(const Fp8RowsArgs& args, cudaStream_t stream) {
  WideFp8RowsKernel<kPasses><<<static_cast<unsigned>(args.rows), kWideThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

// As StoreVector would leave it, to the bit.
__device__ __forceinline__ void RoundVector(float (&x)[kVector]) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    x[i] = __bfloat162float(__float2bfloat16_rn(x[i]));
  }
}

template <int kPasses>
__global__ void __launch_bounds__(kLanes* kRowsPerBlock)
    NormModulateFp8Kernel(const NormModulateArgs args, float* row_scale) {
  const int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.y;
  if (row >= args.rows) {
    return;
  }
  float rows[1][kPasses][kVector];
  NormModulateRows(args, row, 0, rows);
  float(&x)[kPasses][kVector] = rows[0];
  float amax = kFp8LeastAmax;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int column = ColumnOf(pass);
    if (column < args.width) {
      RoundVector(x[pass]);
      amax = LargestOf(x[pass], amax);
    }
  }
  const float factor = ScaleRow(MaxOverWarp(amax), row_scale + row);
  auto* to = static_cast<uint8_t*>(args.y) + row * args.width;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int column = ColumnOf(pass);
    if (column < args.width) {
      StoreFp8Vector(x[pass], factor, to + column);
    }
  }
}

}  // namespace

// Passes: of the widths of PixArt-XL/2, and of a half and a quarter of them, and of the widest.
cudaError_t LaunchFp8Rows(const Fp8RowsArgs& args, cudaStream_t stream) {
  if (args.rows < 1 || args.width < kVector || args.width % kVector != 0 ||
      args.width > kFp8RowsMaxWidth) {
    return cudaErrorInvalidValue;
  }
  if (args.width <= 2 * kColumnsPerPass) return Launch<2>(args, stream);
  if (args.width <= 5 * kColumnsPerPass) return Launch<5>(args, stream);
  if (args.width <= 2 * kColumnsPerWidePass) return LaunchWide<2>(args, stream);
  if (args.width <= 3 * kColumnsPerWidePass) return LaunchWide<3>(args, stream);
  return LaunchWide<(kFp8RowsMaxWidth + kColumnsPerWidePass - 1) / kColumnsPerWidePass>(args,
                                                                                        stream);
}

cudaError_t LaunchNormModulateFp8(const NormModulateArgs& args, float* row_scale,
                                  cudaStream_t stream) {
  return LaunchForWidth(args, [&](auto passes) {
    NormModulateFp8Kernel<decltype(passes)::value>
        <<<BlocksOf(args.rows), dim3(kLanes, kRowsPerBlock), 0, stream>>>(args, row_scale);
    return cudaGetLastError();
  });
}

}  // namespace patchflow
