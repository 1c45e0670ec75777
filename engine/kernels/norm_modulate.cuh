// Rows of norm_modulate.h by one warp, for the kernels that write them.
#pragma once

#include <type_traits>

#include "engine/kernels/norm_modulate.h"
#include "engine/kernels/vectors.cuh"

namespace patchflow {

constexpr int kLanes = 32;
constexpr int kRowsPerBlock = 4;  // Of warps that take one each.
constexpr int kColumnsPerPass = kLanes * kVector;

__device__ __forceinline__ float SumOverWarp(float x) {
#pragma unroll
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
    x += __shfl_xor_sync(0xffffffff, x, lanes);
  }
  return x;
}

// Where a pass of this lane begins.
__device__ __forceinline__ int ColumnOf(int pass) {
  return pass * kColumnsPerPass + static_cast<int>(threadIdx.x) * kVector;
}

// Takes the mean from a row; what it must be multiplied by.
template <int kPasses>
__device__ __forceinline__ float Centre(const NormModulateArgs& args,
                                        float (&x)[kPasses][kVector]) {
  float sum = 0;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    if (ColumnOf(pass) < args.width) {
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
    if (ColumnOf(pass) < args.width) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        x[pass][i] -= mean;
        squares += x[pass][i] * x[pass][i];
      }
    }
  }
  return rsqrtf(SumOverWarp(squares) / static_cast<float>(args.width) + args.eps);
}

// Modulated rows from `first` on in float32, `row_step` apart, as far as there are rows: one
// reading of the tables serves them all. A lane holds the columns from kVector * lane on, every
// kColumnsPerPass; what is beyond the width is left alone.
template <int kPasses, int kRows>
__device__ __forceinline__ void NormModulateRows(const NormModulateArgs& args, int64_t first,
                                                 int row_step,
                                                 float (&x)[kRows][kPasses][kVector]) {
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t row = first + r * row_step;
    const auto* from = static_cast<const __nv_bfloat16*>(args.x) + row * args.width;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      if (row < args.rows && ColumnOf(pass) < args.width) {
        LoadVector(from + ColumnOf(pass), x[r][pass]);
      }
    }
  }
  float inverse[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    inverse[r] = Centre(args, x[r]);
  }
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    if (ColumnOf(pass) < args.width) {
      float scale[kVector];
      float shift[kVector];
      LoadVector(args.scale + ColumnOf(pass), scale);
      LoadVector(args.shift + ColumnOf(pass), shift);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          x[r][pass][i] = x[r][pass][i] * inverse[r] * scale[i] + shift[i];
        }
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
