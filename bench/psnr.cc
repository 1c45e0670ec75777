#include "bench/psnr.h"

#include <ATen/ATen.h>

#include <cmath>

namespace patchflow {

double PsnrDb(const at::Tensor& actual, const at::Tensor& expected) {
  const double range = (expected.max() - expected.min()).item<double>();
  const double error = at::sub(actual, expected).to(at::kDouble).square().mean().item<double>();
  return 20 * std::log10(range / std::sqrt(error));
}

}  // namespace patchflow
