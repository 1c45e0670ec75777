// Attention in bounded memory for heads too wide for fused GPU kernels: the single head, 512 wide,
// of the decoder's middle block.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <utility>

#include "engine/ports.h"

namespace patchflow {

struct WideHeadOptions {
  int64_t workspace_bytes = 0;
  // Called between tiles of queries; may be empty, may throw.
  std::function<void()> tile_done;
};

// softmax(q k^T / sqrt(D)) v by tiles of queries x keys: scores of one tile exist at a time,
// float32, as does the sum over the tiles so far. Two large products a tile, whatever D is.
//   q_SD, k_TD, v_TD: contiguous, T >= 1.
// Takes workspace_bytes at most, and at least a tile of one query. Throws c10::Error.
// Source: online softmax (Milakov and Gimelshein, arXiv 1805.02867); tiles in place of one fused
// kernel (Rabe and Staats, arXiv 2112.05682).
Tensor TiledAttention(const Tensor& q_SD, const Tensor& k_TD, const Tensor& v_TD,
                      const WideHeadOptions& options);

// One image: B and H are 1. A fused kernel where there is a fast one, TiledAttention otherwise.
Tensor WideHeadAttention(const Tensor& q_BSHD, const Tensor& k_BTHD, const Tensor& v_BTHD,
                         const WideHeadOptions& options);

// One device.
class LocalWideHead final : public SelfAttention {
 public:
  explicit LocalWideHead(WideHeadOptions options) : options_(std::move(options)) {}
  Tensor Attend(const AttentionInput& in) override {
    return WideHeadAttention(in.q_BSHD, in.k_BSHD, in.v_BSHD, options_);
  }

 private:
  WideHeadOptions options_;
};

}  // namespace patchflow
