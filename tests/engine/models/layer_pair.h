// A layer with random weights, for the layers under test and, wide, for those they are held
// against.
#pragma once

#include <ATen/ATen.h>

#include "engine/models/pixart_layers.h"

namespace patchflow {

// The same in double precision on the CPU; undefined stays so.
inline Tensor Wide(const Tensor& t) { return t.defined() ? t.cpu().to(at::kDouble) : t; }

struct LayerPair {
  Linear Plain() const { return {weight_OI, bias_O}; }
  Linear PlainWide() const { return {Wide(weight_OI), Wide(bias_O)}; }
  RowLinear Rows(bool whole) const { return {weight_OI, bias_O, whole}; }
  RowLinear RowsWide(bool whole) const { return {Wide(weight_OI), Wide(bias_O), whole}; }
  Tensor weight_OI;
  Tensor bias_O;
};

// A rank of two that hold the same.
class DoublingSum final : public PartialSum {
 public:
  Tensor Complete(Tensor partial) override { return partial.mul_(2); }
};

}  // namespace patchflow
