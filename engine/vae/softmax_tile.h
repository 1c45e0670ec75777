// Softmax over rows of scores that arrive tile by tile.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "engine/ports.h"

namespace patchflow {

// Of S rows, float32 [S].
struct SoftmaxState {
  SoftmaxState(int64_t rows, at::Device device);
  SoftmaxState First(int64_t rows) const;  // Shares memory.
  void Reset();                            // Before the first tile.

  Tensor max_S;         // Of the scaled scores so far.
  Tensor sum_S;         // Of the exponentials of the differences from that.
  Tensor correction_S;  // What sums under the maximum before this tile must be multiplied by.

 private:
  SoftmaxState() = default;
};

// probabilities = exp(scale * scores - max), not yet divided by the sum.
//   scores_ST: float32, contiguous; destroyed on CPUs.
//   probabilities_ST: contiguous; may be scores_ST if float32.
void SoftmaxOfTile(const Tensor& scores_ST, double scale, SoftmaxState& state,
                   const Tensor& probabilities_ST);

}  // namespace patchflow
