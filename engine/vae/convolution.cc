#include "engine/vae/convolution.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "engine/vae/row_ops.h"

namespace patchflow {
namespace {

constexpr int64_t kHaloRows = 2;

// Rows have their halo; columns are padded here.
Tensor Convolve(const Tensor& window_1Ihw, const Tensor& weight) {
  const Tensor out = at::conv2d(window_1Ihw, weight, {}, /*stride=*/1, at::IntArrayRef({0, 1}));
  return out.permute({0, 2, 3, 1}).squeeze(0).contiguous();
}

Tensor Taps(const Tensor& weight, int64_t dim, bool odd) {
  const Tensor first = weight.narrow(dim, 0, 1);
  const Tensor middle = weight.narrow(dim, 1, 1);
  const Tensor last = weight.narrow(dim, 2, 1);
  return odd ? at::cat({first + middle, last}, dim) : at::cat({first, middle + last}, dim);
}

}  // namespace

Tensor Convolution::operator()(const Tensor& window_1Ihw) const {
  return Convolve(window_1Ihw, weight_OI33);
}

Tensor PhaseConvolution::operator()(const Tensor& window_1Ihw) const {
  return Convolve(window_1Ihw, weight_PI22);
}

Tensor PhaseWeights(const Tensor& weight_OI33) {
  const Tensor even = Taps(weight_OI33, 2, false);
  const Tensor odd = Taps(weight_OI33, 2, true);
  return at::cat(
      {Taps(even, 3, false), Taps(even, 3, true), Taps(odd, 3, false), Taps(odd, 3, true)});
}

int64_t SlabRows(int64_t h, const SlabCost& cost, int64_t workspace_bytes) {
  TORCH_CHECK(cost.fixed_bytes + cost.row_bytes <= workspace_bytes, "workspace_bytes is ",
              workspace_bytes, ": a slab of one row needs ", cost.fixed_bytes + cost.row_bytes);
  const int64_t indexable = std::numeric_limits<int32_t>::max() / cost.row_elements - kHaloRows;
  TORCH_CHECK(indexable > 0, "a slab of one row has ", (1 + kHaloRows) * cost.row_elements,
              " elements, beyond the 2^31 - 1 that kernels can index");
  const int64_t most = std::min(indexable, (workspace_bytes - cost.fixed_bytes) / cost.row_bytes);
  const int64_t slabs = (h + most - 1) / most;
  return (h + slabs - 1) / slabs;
}

int64_t PassBytes(int64_t h, const SlabCost& cost, int64_t workspace_bytes) {
  return cost.fixed_bytes + SlabRows(h, cost, workspace_bytes) * cost.row_bytes;
}

}  // namespace patchflow
