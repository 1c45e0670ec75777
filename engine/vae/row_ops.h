// The two passes over memory that stand between convolutions. A feature map is rows of dense
// pixels, [h, W, C]: pixels of a row follow one another, rows may lie further apart. Statistics are
// float32 whatever the dtype of the map. CPUs: float32 maps. GPUs: float32, bfloat16, float16;
// nothing waits for the device.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "engine/ports.h"

namespace patchflow {

struct GroupNorm {
  Tensor gamma_C;  // float32
  Tensor beta_C;   // float32
  int64_t groups = 0;
};
constexpr double kGroupNormEpsilon = 1e-6;

enum class Activation { kNone, kSilu };

// out = activation((x - mean) / sqrt(m2 / count + epsilon) * gamma + beta).
//   out_hWC: contiguous.
void NormalizeRows(const GroupNorm& norm, const GroupMoments& moments, Activation activation,
                   const Tensor& x_hWC, const Tensor& out_hWC);

// How the pixels of `to` stand in `from`.
enum class PixelOrder {
  kSame,    // from: [h, W, >= C]; channels beyond C are dropped.
  kPhases,  // from: [h / 2 + 1, W / 2 + 1, 4 C]: what a PhaseConvolution gives. h and W are even.
};
enum class StoreMode { kReplace, kAdd };

// Ends a convolution: to = from + bias, or to += from + bias.
struct RowStore {
  Tensor from;    // Contiguous.
  Tensor bias_C;  // float32
  Tensor to_hWC;
  PixelOrder order = PixelOrder::kSame;
  StoreMode mode = StoreMode::kReplace;
};

// Of no elements. `groups` groups, on `device`.
GroupMoments NoMoments(int64_t groups, at::Device device);

// Stores the rows, and merges the statistics of what `to` then holds into `moments` unless it is
// nullptr. The order of the additions depends on shapes alone.
void StoreRows(const RowStore& store, GroupMoments* moments);

// Throws c10::Error unless a kernel can index `t` with 32 bits.
void CheckIndexable(const Tensor& t, const char* what);

}  // namespace patchflow
