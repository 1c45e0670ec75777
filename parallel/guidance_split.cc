#include "parallel/guidance_split.h"

#include <ATen/ATen.h>

namespace patchflow {

Tensor SplitGuidance::Branches(const Tensor& both) const {
  return scale_ == 1 ? both : both.chunk(2)[axis_.rank()];
}

Tensor SplitGuidance::Combine(const Tensor& eps_BSC) {
  if (scale_ == 1) {
    return eps_BSC;
  }
  const Tensor both =
      at::empty({2, eps_BSC.size(0), eps_BSC.size(1), eps_BSC.size(2)}, eps_BSC.options());
  axis_.AllGather(eps_BSC.contiguous(), both).Wait();
  return local_.Combine(both.flatten(0, 1));
}

}  // namespace patchflow
