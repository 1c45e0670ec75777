// How far tensors are from others.
#pragma once

#include <ATen/core/Tensor.h>

namespace patchflow {

// 20 log10 of the range of `expected` over the root of the mean square difference.
double PsnrDb(const at::Tensor& actual, const at::Tensor& expected);

}  // namespace patchflow
