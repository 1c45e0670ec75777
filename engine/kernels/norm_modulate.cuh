// One row of norm_modulate.h by one warp, for the kernels that write it.
#pragma once

#include <type_traits>

#include "engine/kernels/norm_modulate.h"
#include "engine/kernels/vectors.cuh"

namespace patchflow {

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

// The modulated row in float32. A lane holds the columns from kVector * lane on, every
// kColumnsPerPass; what is
// beyond the width is left alone.
template <int kPasses>
__device__ __forceinline__ void NormModulateRow(const NormModulateArgs& args, int64_t row,
                                                float (&x)[kPasses][kVector]) {
  const auto* from = static_cast<const __nv_bfloat16*>(args.x) + row * args.width;
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
    }
  }
}

// launch(std::integral_constant<int, passes>) of the passes that a row takes.
template <class Launch>
cudaError_t LaunchForWidth(const NormModulateArgs& args, Launch launch) {
  if (args.rows < 1 || args.width < kVector || args.width % kVector != 0) {
    return cudaErrorInvalidValue;
  }
  switch ((args.width + kColumnsPerPass - 1) / kColumnsPerPass) {
    case 1:
      return launch(std::integral_constant<int, 1>());
    case 2:
      return launch(std::integral_constant<int, 2>());
    case 3:
      return launch(std::integral_constant<int, 3>());
    case 4:
      return launch(std::integral_constant<int, 4>());
    case 5:
      return launch(std::integral_constant<int, 5>());
    case 6:
      return launch(std::integral_constant<int, 6>());
    case 7:
      return launch(std::integral_constant<int, 7>());
    case 8:
      return launch(std::integral_constant<int, 8>());
    default:
      return cudaErrorInvalidValue;
  }
}

inline unsigned BlocksOf(int64_t rows) {
  return static_cast<unsigned>((rows + kRowsPerBlock - 1) / kRowsPerBlock);
}

}  // namespace patchflow
