// T5's attention bias by the distance between two tokens.
// Source: Raffel et al. (arXiv 1910.10683), section 2.1; buckets as in transformers' T5Attention.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "engine/ports.h"

namespace patchflow {

// Bucket of every distance key - query from -max_distance to max_distance, int64 [2 max_distance +
// 1], on the CPU. Half of the buckets are for keys behind the query. Distances beyond share the
// bucket of max_distance.
Tensor DistanceBuckets(int64_t num_buckets, int64_t max_distance);

class RelativeBias {
 public:
  RelativeBias() = default;
  // bias_BucketH: the learned table, for the heads held here.
  RelativeBias(const Tensor& bias_BucketH, int64_t max_distance);
  // [1, H, length, length], queries by keys. The host does not wait.
  Tensor operator()(int64_t length) const;

 private:
  Tensor by_distance_TH_;
  int64_t max_distance_ = 0;
};

}  // namespace patchflow
