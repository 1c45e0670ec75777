#include "engine/text/relative_bias.h"

#include <ATen/ATen.h>

#include <cmath>

namespace patchflow {

Tensor DistanceBuckets(int64_t num_buckets, int64_t max_distance) {
  const int64_t a_side = num_buckets / 2;
  const int64_t exact = a_side / 2;
  const double octaves = std::log(static_cast<double>(max_distance) / static_cast<double>(exact));
  const Tensor distance = at::arange(max_distance + 1, at::kLong);
  const Tensor logarithmic =
      (at::log(distance.to(at::kFloat) / exact) / octaves * (a_side - exact)).to(at::kLong) + exact;
  const Tensor backward = at::where(distance < exact, distance, logarithmic.clamp_max(a_side - 1));
  const Tensor forward = backward.narrow(0, 1, max_distance) + a_side;
  return at::cat({backward.flip(0), forward});
}

RelativeBias::RelativeBias(const Tensor& bias_BucketH, int64_t max_distance)
    : by_distance_TH_(bias_BucketH.index_select(
          0, DistanceBuckets(bias_BucketH.size(0), max_distance).to(bias_BucketH.device()))),
      max_distance_(max_distance) {}

Tensor RelativeBias::operator()(int64_t length) const {
  const Tensor place = at::arange(length, by_distance_TH_.options().dtype(at::kLong));
  const Tensor row = (place.unsqueeze(0) - place.unsqueeze(1))
                         .clamp(-max_distance_, max_distance_)
                         .add_(max_distance_);
  return at::embedding(by_distance_TH_, row).permute({2, 0, 1}).unsqueeze(0);
}

}  // namespace patchflow
