// What a transformer's block does to its tokens on a CPU, float32, compiled once for every set of
// vector instructions that is worth it. No LibTorch: callers split the rows over threads.
#pragma once

#include <cstdint>
#include <string_view>

namespace patchflow {

// Memory of the host, float32, matrices [rows, features] with dense rows; no alignment is needed.
// A weight stands in panels: [ceil(out / panel), in, panel], the columns of the last one filled up
// with zeros, so that a tile of a product reads it front to back.
struct CpuGemmArgs {
  const float* x = nullptr;         // [rows, in]
  const float* panels = nullptr;    // From PackPanels.
  const float* bias = nullptr;      // [out]; none adds nothing.
  const float* gate = nullptr;      // [out], with a residual; none is 1.
  const float* residual = nullptr;  // [rows, out]
  float* y = nullptr;               // [rows, out]; may be the residual, not x.
  int64_t rows = 0;
  int64_t in = 0;
  int64_t out = 0;
  int64_t x_stride = 0;  // Elements from a row to the next; 0 is `in`.
  int64_t y_stride = 0;  // Of the residual, too; 0 is `out`.
};

// kBias: y = x W^T + bias. kBiasGelu: gelu of that, tanh form. kBiasResidual: residual + gate of
// it.
enum class CpuEpilogue { kBias, kBiasGelu, kBiasResidual };

struct CpuSoftmaxArgs {
  float* x = nullptr;  // [rows, length], in place.
  int64_t rows = 0;
  int64_t length = 0;
  int64_t stride = 0;    // Elements from a row to the next.
  float scale = 1;       // What x is multiplied by first; positive.
  float* lse = nullptr;  // [rows], or none: the logarithm of a row's sum of exponentials.
};

struct CpuNormArgs {
  const float* x = nullptr;      // [rows, width]
  const float* scale = nullptr;  // [width]; what LayerNorm's result is multiplied by.
  const float* shift = nullptr;  // [width]
  float* y = nullptr;            // May be x.
  int64_t rows = 0;
  int64_t width = 0;
  float eps = 0;
};

// Kernels of one set of instructions. Each element of a result is computed in an order that depends
// on `in`, `width` or `length` alone: not on the rows of a call, so not on the number of threads.
struct CpuKernels {
  std::string_view name;
  int64_t panel;      // Columns of a panel.
  int64_t tile_rows;  // Rows that a product takes together; fewer cost as much.
  // weight[o * out_stride + i * in_stride] -> panels.
  void (*pack)(const float* weight, int64_t out_stride, int64_t in_stride, int64_t out, int64_t in,
               float* panels);
  void (*multiply)(const CpuGemmArgs& args, CpuEpilogue epilogue);
  // y = scale (x - mean) / sqrt(variance + eps) + shift, statistics in two passes.
  void (*norm_modulate)(const CpuNormArgs& args);
  void (*softmax)(const CpuSoftmaxArgs& args);
};

// By LibTorch's name for a processor's abilities (at::get_cpu_capability): "AVX512", "AVX2"; null
// for another, for which there are none.
const CpuKernels* CpuKernelsFor(std::string_view capability);

// Elements of a weight's panels.
inline int64_t PanelElements(const CpuKernels& kernels, int64_t out, int64_t in) {
  return (out + kernels.panel - 1) / kernels.panel * kernels.panel * in;
}

}  // namespace patchflow
