// Rows of a feature map beyond the edge of a slab, from the ranks that hold them.
#pragma once

#include "engine/ports.h"
#include "parallel/communicator.h"

namespace patchflow {

// The ranks hold slabs of one image from top to bottom, each of at least as many rows as are asked
// for. A call exchanges that many rows, both ways, with the rank above and the one below; zeros
// beyond the image. All fresh: waited for. The result is dense in the order B = 1, h, W, C, in
// which the decoder's maps are (channels last), so that nothing is copied but the rows themselves.
// Borrows the ranks.
// Source: patch-parallel convolution of DistVAE, with widths of halos that are known beforehand.
class HaloExchange final : public NeighbourRows {
 public:
  explicit HaloExchange(Communicator& ranks) : ranks_(ranks) {}
  // Throws c10::Error if fewer than `rows` rows are held here, and CommunicatorError.
  Tensor WithHalo(const Tensor& x_BChw, int64_t rows) override;

 private:
  Communicator& ranks_;
};

}  // namespace patchflow
