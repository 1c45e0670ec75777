#include "engine/kernels/fp8_rows.cuh"

namespace patchflow {
namespace {

// The row stays packed in registers between its two uses.
template <int kPasses>
__global__ void __launch_bounds__(kLanes* kRowsPerBlock) Fp8RowsKernel(const Fp8RowsArgs args) {
  const int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.y;
  if (row >= args.rows) {
    return;
  }
  const auto* from = static_cast<const __nv_bfloat16*>(args.x) + row * args.width;
  uint4 packed[kPasses];
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int column = pass * kColumnsPerPass + static_cast<int>(threadIdx.x) * kVector;
    packed[pass] = column < args.width ? *reinterpret_cast<const uint4*>(from + column) : uint4{};
  }
  float amax = kFp8LeastAmax;
  float x[kVector];
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    LoadVector(reinterpret_cast<const __nv_bfloat16*>(&packed[pass]), x);
    amax = LargestOf(x, amax);
  }
  const float factor = ScaleRow(amax, args.row_scale + row);
  auto* to = static_cast<uint8_t*>(args.y) + row * args.width;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int column = pass * kColumnsPerPass + static_cast<int>(threadIdx.x) * kVector;
    if (column < args.width) {
      LoadVector(reinterpret_cast<const __nv_bfloat16*>(&packed[pass]), x);
      StoreFp8Vector(x, factor, to + column);
    }
  }
}

template <int kPasses>
cudaError_t Launch(const Fp8RowsArgs& args, cudaStream_t stream) {
  Fp8RowsKernel<kPasses><<<BlocksOf(args.rows), dim3(kLanes, kRowsPerBlock), 0, stream>>>(args);
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
  float x[kPasses][kVector];
  NormModulateRow(args, row, x);
  float amax = kFp8LeastAmax;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int column = pass * kColumnsPerPass + static_cast<int>(threadIdx.x) * kVector;
    if (column < args.width) {
      RoundVector(x[pass]);
      amax = LargestOf(x[pass], amax);
    }
  }
  const float factor = ScaleRow(amax, row_scale + row);
  auto* to = static_cast<uint8_t*>(args.y) + row * args.width;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int column = pass * kColumnsPerPass + static_cast<int>(threadIdx.x) * kVector;
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
  const int passes = (args.width + kColumnsPerPass - 1) / kColumnsPerPass;
  if (passes <= 2) return Launch<2>(args, stream);
  if (passes <= 5) return Launch<5>(args, stream);
  if (passes <= 9) return Launch<9>(args, stream);
  if (passes <= 18) return Launch<18>(args, stream);
  return Launch<kFp8RowsMaxWidth / kColumnsPerPass>(args, stream);
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
