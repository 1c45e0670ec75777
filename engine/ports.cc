#include "engine/ports.h"

#include <ATen/ATen.h>

#include "engine/attention.h"
#include "engine/by_image.h"

namespace patchflow {

Tensor LocalAttention::Attend(const AttentionInput& in) {
  return Sdpa(in.q_BSHD, in.k_BSHD, in.v_BSHD);
}

Tensor LocalRows::WithHalo(const Tensor& x_BChw, int64_t rows) {
  return at::constant_pad_nd(x_BChw, {0, 0, rows, rows});
}

Tensor LocalGuidance::Branches(const Tensor& both) const { return both; }

Tensor LocalGuidance::Expand(const Tensor& x_NSC) const {
  return scale_ == 1 ? x_NSC : at::cat({x_NSC, x_NSC});
}

Tensor LocalGuidance::Combine(const Tensor& eps_BSC) {
  if (scale_ == 1) {
    return eps_BSC;
  }
  return ByImage(eps_BSC.size(0) / 2, eps_BSC, [this](const Tensor& both_BSC, int64_t /*n*/) {
    const auto branches = both_BSC.to(at::kFloat).chunk(2);
    return at::add(branches[0], branches[1] - branches[0], scale_);
  });
}

}  // namespace patchflow
