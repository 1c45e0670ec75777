// The kernels of cpu_kernels.h, for the instructions that the including file is compiled for.
#pragma once

#include "engine/kernels/cpu_kernels.h"
#include "engine/kernels/cpu_vectors.h"

namespace patchflow {
namespace {

constexpr int64_t kPanel = 2 * kLanes;
// Sums of a tile, two vectors a row, with a panel's two and a broadcast fill the registers: 32,
// or 16.
constexpr int kTileRows = kLanes == 16 ? 14 : 6;
// Inputs that are summed one after the other.
constexpr int64_t kRun = 128;
// Rows of x that stay in the second-level cache while all panels pass.
constexpr int64_t kRowBlockBytes = 256 << 10;

void Pack(const float* weight, int64_t out_stride, int64_t in_stride, int64_t out, int64_t in,
          float* panels) {
  for (int64_t first = 0; first < out; first += kPanel) {
    const int64_t count = out - first < kPanel ? out - first : kPanel;
    for (int64_t i = 0; i < in; ++i, panels += kPanel) {
      const float* from = weight + first * out_stride + i * in_stride;
      if (out_stride == 1 && count == kPanel) {
        Store(panels, Load(from));
        Store(panels + kLanes, Load(from + kLanes));
        continue;
      }
      for (int64_t o = 0; o < count; ++o) panels[o] = from[o * out_stride];
      for (int64_t o = count; o < kPanel; ++o) panels[o] = 0;
    }
  }
}

// gelu(x), tanh form: x / (1 + exp(-2 sqrt(2 / pi) (x + 0.044715 x^3))).
inline Vector Gelu(Vector x) {
  constexpr float kTwiceRootTwoOverPi = 1.5957691216057308F;
  const Vector inner = x * (x * x * (kTwiceRootTwoOverPi * 0.044715F) + kTwiceRootTwoOverPi);
  return x / (1.0F + Exp(-inner));
}

struct Columns {
  Vector bias[2];
  Vector gate[2];
};

template <CpuEpilogue kEpilogue>
inline Vector Finished(Vector sum, Vector bias, Vector gate, const float* residual) {
  sum += bias;
  if constexpr (kEpilogue == CpuEpilogue::kBiasGelu) return Gelu(sum);
  if constexpr (kEpilogue == CpuEpilogue::kBiasResidual) return Load(residual) + gate * sum;
  return sum;
}

// kRows x kPanel of the product of a run of inputs, summed in registers, front to back.
template <int kRows>
inline void SumRun(const float* x, int64_t x_stride, int64_t run, const float* panel,
                   Vector (&sums)[kRows][2]) {
  Vector left[kRows];
  Vector right[kRows];
#pragma GCC unroll 14
  for (int r = 0; r < kRows; ++r) left[r] = right[r] = Vector{};
  for (int64_t i = 0; i < run; ++i, panel += kPanel) {
    const Vector w0 = Load(panel);
    const Vector w1 = Load(panel + kLanes);
#pragma GCC unroll 14
    for (int r = 0; r < kRows; ++r) {
      const Vector factor = All(x[r * x_stride + i]);
      left[r] += factor * w0;
      right[r] += factor * w1;
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < kRows; ++r) {
    sums[r][0] += left[r];
    sums[r][1] += right[r];
  }
}

// Sums of long runs round off more than sums of the sums of short ones.
template <int kRows>
inline void Accumulate(const float* x, int64_t x_stride, int64_t in, const float* panel,
                       Vector (&sums)[kRows][2]) {
  for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = Vector{};
  for (int64_t i = 0; i < in; i += kRun) {
    const int64_t run = in - i < kRun ? in - i : kRun;
    SumRun<kRows>(x + i, x_stride, run, panel + i * kPanel, sums);
  }
}

// Fewer columns than a panel pass through memory of a panel's width.
template <CpuEpilogue kEpilogue, int kRows>
void StoreNarrow(const CpuGemmArgs& args, int64_t row, int64_t column, const Columns& columns,
                 const Vector (&sums)[kRows][2]) {
  const int64_t count = args.out - column;
  for (int r = 0; r < kRows; ++r) {
    const int64_t at = (row + r) * args.y_stride + column;
    float buffer[kPanel] = {};
    if constexpr (kEpilogue == CpuEpilogue::kBiasResidual) {
      __builtin_memcpy(buffer, args.residual + at, count * sizeof(float));
    }
    for (int half = 0; half < 2; ++half) {
      float* part = buffer + half * kLanes;
      Store(part, Finished<kEpilogue>(sums[r][half], columns.bias[half], columns.gate[half], part));
    }
    __builtin_memcpy(args.y + at, buffer, count * sizeof(float));
  }
}

template <CpuEpilogue kEpilogue, int kRows>
void MultiplyTile(const CpuGemmArgs& args, int64_t row, int64_t column, const float* panel,
                  const Columns& columns) {
  Vector sums[kRows][2];
  Accumulate<kRows>(args.x + row * args.x_stride, args.x_stride, args.in, panel, sums);
  if (args.out - column < kPanel) {
    StoreNarrow<kEpilogue, kRows>(args, row, column, columns, sums);
    return;
  }
#pragma GCC unroll 14
  for (int r = 0; r < kRows; ++r) {
    for (int half = 0; half < 2; ++half) {
      const int64_t at = (row + r) * args.y_stride + column + half * kLanes;
      Store(args.y + at, Finished<kEpilogue>(sums[r][half], columns.bias[half], columns.gate[half],
                                             args.residual + at));
    }
  }
}

using Tile = void (*)(const CpuGemmArgs&, int64_t, int64_t, const float*, const Columns&);

template <CpuEpilogue kEpilogue, int kRows = kTileRows>
Tile TileOf(int64_t rows) {
  if constexpr (kRows == 1) {
    return MultiplyTile<kEpilogue, 1>;
  } else {
    return rows >= kRows ? MultiplyTile<kEpilogue, kRows> : TileOf<kEpilogue, kRows - 1>(rows);
  }
}

inline Vector Some(const float* from, int64_t count, float missing) {
  if (from == nullptr) return All(missing);
  Vector v = All(missing);
  for (int64_t i = 0; i < kLanes && i < count; ++i) v[i] = from[i];
  return v;
}

Columns ColumnsOf(const CpuGemmArgs& args, int64_t column) {
  Columns columns;
  for (int half = 0; half < 2; ++half) {
    const int64_t first = column + half * kLanes;
    const auto from = [&](const float* all) { return all == nullptr ? nullptr : all + first; };
    columns.bias[half] = Some(from(args.bias), args.out - first, 0.0F);
    columns.gate[half] = Some(from(args.gate), args.out - first, 1.0F);
  }
  return columns;
}

// Tiles of nearly one height: a tile of few rows waits for its panel as long as a high one.
template <CpuEpilogue kEpilogue>
void MultiplyRows(const CpuGemmArgs& args, int64_t begin, int64_t end) {
  const int64_t tiles = (end - begin + kTileRows - 1) / kTileRows;
  for (int64_t column = 0; column < args.out; column += kPanel) {
    const float* panel = args.panels + column * args.in;
    const Columns columns = ColumnsOf(args, column);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = begin + (end - begin) * t / tiles;
      const int64_t last = begin + (end - begin) * (t + 1) / tiles;
      TileOf<kEpilogue>(last - first)(args, first, column, panel, columns);
    }
  }
}

template <CpuEpilogue kEpilogue>
void MultiplyBlocks(const CpuGemmArgs& args) {
  const int64_t row_bytes = args.in * static_cast<int64_t>(sizeof(float));
  const int64_t most = row_bytes == 0 ? args.rows : kRowBlockBytes / row_bytes;
  const int64_t block = most < kTileRows ? kTileRows : most / kTileRows * kTileRows;
  for (int64_t begin = 0; begin < args.rows; begin += block) {
    const int64_t end = begin + block < args.rows ? begin + block : args.rows;
    MultiplyRows<kEpilogue>(args, begin, end);
  }
}

void Multiply(const CpuGemmArgs& given, CpuEpilogue epilogue) {
  CpuGemmArgs args = given;
  if (args.x_stride == 0) args.x_stride = args.in;
  if (args.y_stride == 0) args.y_stride = args.out;
  switch (epilogue) {
    case CpuEpilogue::kBias:
      return MultiplyBlocks<CpuEpilogue::kBias>(args);
    case CpuEpilogue::kBiasGelu:
      return MultiplyBlocks<CpuEpilogue::kBiasGelu>(args);
    case CpuEpilogue::kBiasResidual:
      return MultiplyBlocks<CpuEpilogue::kBiasResidual>(args);
  }
}

// The sum of f over whole vectors and over what is left.
template <typename F>
inline float SumOf(const float* x, int64_t count, F f) {
  Vector sums[2] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    sums[0] += f(Load(x + i));
    sums[1] += f(Load(x + i + kLanes));
  }
  for (; i + kLanes <= count; i += kLanes) sums[0] += f(Load(x + i));
  float sum = Sum(sums[0] + sums[1]);
  for (; i < count; ++i) sum += f(All(x[i]))[0];
  return sum;
}

void NormModulate(const CpuNormArgs& args) {
  const auto count = static_cast<float>(args.width);
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* x = args.x + row * args.width;
    float* y = args.y + row * args.width;
    const float mean = SumOf(x, args.width, [](Vector v) { return v; }) / count;
    const float variance =
        SumOf(x, args.width, [=](Vector v) { return (v - mean) * (v - mean); }) / count;
    const float factor = 1.0F / __builtin_sqrtf(variance + args.eps);
    int64_t i = 0;
    for (; i + kLanes <= args.width; i += kLanes) {
      const Vector normed = (Load(x + i) - mean) * factor;
      Store(y + i, normed * Load(args.scale + i) + Load(args.shift + i));
    }
    for (; i < args.width; ++i) y[i] = (x[i] - mean) * factor * args.scale[i] + args.shift[i];
  }
}

inline float LargestOf(const float* x, int64_t length) {
  Vector largest = All(x[0]);
  int64_t i = 0;
  for (; i + kLanes <= length; i += kLanes) largest = Max(largest, Load(x + i));
  float top = x[0];
  for (int64_t lane = 0; lane < kLanes; ++lane) top = largest[lane] > top ? largest[lane] : top;
  for (; i < length; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

void Softmax(const CpuSoftmaxArgs& args) {
  const int64_t length = args.length;
  for (int64_t row = 0; row < args.rows; ++row) {
    float* x = args.x + row * args.stride;
    const float top = LargestOf(x, length);
    Vector sums = {};
    int64_t i = 0;
    for (; i + kLanes <= length; i += kLanes) {
      const Vector e = Exp((Load(x + i) - top) * args.scale);
      sums += e;
      Store(x + i, e);
    }
    float sum = Sum(sums);
    for (; i < length; ++i) {
      x[i] = Exp(All((x[i] - top) * args.scale))[0];
      sum += x[i];
    }
    const float factor = 1.0F / sum;
    for (i = 0; i + kLanes <= length; i += kLanes) Store(x + i, Load(x + i) * factor);
    for (; i < length; ++i) x[i] *= factor;
    if (args.lse != nullptr) args.lse[row] = top * args.scale + __builtin_logf(sum);
  }
}

}  // namespace
}  // namespace patchflow
