// Convolutions over a window of rows, and how many rows fit into a workspace.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "engine/ports.h"

namespace patchflow {

// 3x3, zeros beyond the image. Biases are added where the result is stored.
struct Convolution {
  Tensor weight_OI33;  // Channels last. On GPUs O is filled up with zeros to a multiple of 8.
  Tensor bias_O;       // float32, of the true channels.

  int64_t in() const { return weight_OI33.size(1); }
  int64_t out() const { return bias_O.size(0); }
  // window: [1, I, h + 2, W] -> contiguous [h, W, O], O as filled up.
  Tensor operator()(const Tensor& window_1Ihw) const;
};

// A 3x3 convolution of the map enlarged twice, nearest neighbour, as one 2x2 convolution of the map
// itself: each of the four phases of output pixels sees 2x2 input pixels, under sums of the 3x3
// weights. 4/9 of the work, and the enlarged map is never made.
struct PhaseConvolution {
  Tensor weight_PI22;  // Channels last. P: outputs of the phases (row, column) = (even, even),
                       // (even, odd), (odd, even), (odd, odd).
  Tensor bias_O;       // float32

  int64_t in() const { return weight_PI22.size(1); }
  int64_t out() const { return bias_O.size(0); }
  // window: [1, I, h + 2, W] -> contiguous [h + 1, W + 1, 4 O]: PixelOrder::kPhases.
  Tensor operator()(const Tensor& window_1Ihw) const;
};
// [O, I, 3, 3] -> [4 O, I, 2, 2]
Tensor PhaseWeights(const Tensor& weight_OI33);

// What a pass over a map takes: for each row of a slab, and whatever the slab.
struct SlabCost {
  int64_t row_bytes = 0;
  int64_t fixed_bytes = 0;
  int64_t row_elements = 0;  // Of the largest tensor, which has two rows more than the slab.
};
// Rows of a slab, so that as few slabs as possible, as even as can be, cover h rows, and each stays
// within workspace_bytes and below 2^31 elements a tensor. Throws c10::Error where no row does.
int64_t SlabRows(int64_t h, const SlabCost& cost, int64_t workspace_bytes);
// What a pass over h rows takes, in slabs of SlabRows().
int64_t PassBytes(int64_t h, const SlabCost& cost, int64_t workspace_bytes);

}  // namespace patchflow
