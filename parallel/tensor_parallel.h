// Tensor parallelism: heads and hidden features split over ranks, each of which holds all tokens.
#pragma once

#include "engine/ports.h"
#include "parallel/communicator.h"

namespace patchflow {

// One all-reduce of [B, S, E] for each row-parallel layer, waited for at once: three a block in
// PixArt (attention, cross-attention, MLP). Borrows the axis.
// Source: Megatron-LM (arXiv 1909.08053), section 3. Ours: cross-attention is split as well, and
// the bias is added after the sum, by RowLinear.
class AllReducePartialSum final : public PartialSum {
 public:
  explicit AllReducePartialSum(Communicator& axis) : axis_(axis) {}
  Tensor Complete(Tensor partial) override;

 private:
  Communicator& axis_;
};

}  // namespace patchflow
