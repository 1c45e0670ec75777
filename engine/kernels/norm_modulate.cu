#include "engine/kernels/norm_modulate.h"

#include "engine/kernels/vectors.cuh"

namespace patchflow {
namespace {

constexpr int kLanes = 32;
constexpr int kRowsPerBlock = 4;
constexpr int kColumnsPerPass = kLanes * kVector;

__device__ __forceinline__ float SumOverWarp(float x) {
#pragma unroll
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
    x += __shfl_xor_sync(0xffffffff, x, lanes);
  }
  return x;
}

// A lane holds the columns from kVector * lane on, every kColumnsPerPass.
template <int kPasses>
__global__ void __launch_bounds__(kLanes* kRowsPerBlock)
    NormModulateKernel(const NormModulateArgs args) {
  const int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.y;
  if (row >= args.rows) {
    return;
  }
  const auto* from = static_cast<const __nv_bfloat16*>(args.x) + row * args.width;
  float x[kPasses][kVector];
  float sum = 0;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int column = pass * kColumnsPerPass + static_cast<int>(threadIdx.x) * kVector;
    if (column < args.width) {
      LoadVector(from + column, x[pass]);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        sum += x[pass][i];
      }
    }
  }
  const float mean = SumOverWarp(sum) / static_cast<float>(args.width);
  float squares = 0;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int column = pass * kColumnsPerPass + static_cast<int>(threadIdx.x) * kVector;
    if (column < args.width) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        x[pass][i] -= mean;
        squares += x[pass][i] * x[pass][i];
      }
    }
  }
  const float inverse = rsqrtf(SumOverWarp(squares) / static_cast<float>(args.width) + args.eps);
  auto* to = static_cast<__nv_bfloat16*>(args.y) + row * args.width;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int column = pass * kColumnsPerPass + static_cast<int>(threadIdx.x) * kVector;
    if (column < args.width) {
      float scale[kVector];
      float shift[kVector];
      LoadVector(args.scale + column, scale);
      LoadVector(args.shift + column, shift);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        x[pass][i] = x[pass][i] * inverse * scale[i] + shift[i];
      }
      StoreVector(x[pass], to + column);
    }
  }
}

template <int kPasses>
cudaError_t Launch(const NormModulateArgs& args, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((args.rows + kRowsPerBlock - 1) / kRowsPerBlock);
  NormModulateKernel<kPasses><<<blocks, dim3(kLanes, kRowsPerBlock), 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchNormModulate(const NormModulateArgs& args, cudaStream_t stream) {
  if (args.rows < 1 || args.width < kVector || args.width % kVector != 0) {
    return cudaErrorInvalidValue;
  }
  switch ((args.width + kColumnsPerPass - 1) / kColumnsPerPass) {
    case 1:
      return Launch<1>(args, stream);
    case 2:
      return Launch<2>(args, stream);
    case 3:
      return Launch<3>(args, stream);
    case 4:
      return Launch<4>(args, stream);
    case 5:
      return Launch<5>(args, stream);
    case 6:
      return Launch<6>(args, stream);
    case 7:
      return Launch<7>(args, stream);
    case 8:
      return Launch<8>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace patchflow
