// A small transformer for tests of parallel methods: self- and cross-attention, modulation by step,
// sharded and staged as the real ones, with weights drawn from a seed.
#pragma once

#include <cstdint>
#include <memory>

#include "engine/transformer.h"

namespace patchflow {

struct ToyOptions {
  int num_blocks = 5;
  int num_heads = 6;
  int head_size = 4;
  uint64_t seed = 1;
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;
  TensorShard shard = {};
  BlockRange blocks{0, -1};
};

constexpr int64_t kToyTextWidth = 8;

TransformerConfig ToyConfig(const ToyOptions& options);

// On CPUs its own arithmetic treats every token and every output alike, whatever else is in the
// batch, so that tokens and blocks may be divided without a bit changing.
std::unique_ptr<Transformer> MakeToyTransformer(const ToyOptions& options);

}  // namespace patchflow
