// Classifier-free guidance with one branch on each half of the ranks.
#pragma once

#include "engine/ports.h"
#include "parallel/communicator.h"

namespace patchflow {

// The rank in `axis` (of two) is the branch held here. One all-gather of [N, S, C] for each call of
// Combine(), after which both halves hold the same. At a scale of 1 there is one branch, which both
// halves compute. Borrows the axis.
class SplitGuidance final : public Guidance {
 public:
  SplitGuidance(Communicator& axis, double scale) : axis_(axis), local_(scale), scale_(scale) {}
  Tensor Branches(const Tensor& both) const override;
  Tensor Expand(const Tensor& x_NSC) const override { return x_NSC; }
  Tensor Combine(const Tensor& eps_BSC) override;

 private:
  Communicator& axis_;
  LocalGuidance local_;
  double scale_;
};

}  // namespace patchflow
