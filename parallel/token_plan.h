// Which tokens of the image each rank of the sequence axis holds, and in which order.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "engine/ports.h"

namespace patchflow {

// The image is cut into `patches` runs of raster tokens, and each of them into a slab for every
// rank; all as even as can be, the first ones one token longer. The denoiser's order is by rank,
// then by patch, so that both a slab and all slabs of a rank (its share) are one span.
class TokenPlan {
 public:
  TokenPlan(int64_t tokens, int ranks, int patches);

  int64_t tokens() const { return tokens_; }
  int ranks() const { return ranks_; }
  int patches() const { return patches_; }
  TokenSpan Share(int rank) const;
  TokenSpan Slab(int rank, int patch) const;
  std::vector<TokenSpan> Shares() const;

  // Of a rank's span: the patch that it is the slab of, or -1 for its whole share of many patches.
  int PatchOf(int rank, TokenSpan span) const;
  // The spans that the ranks [first, first + count) hold when `rank` holds `span`.
  std::vector<TokenSpan> Counterparts(int rank, TokenSpan span, int first, int count) const;

  // int64 [tokens]: the raster index of each token in the denoiser's order; undefined if it is
  // raster. On the host.
  Tensor Order() const;

 private:
  TokenSpan RasterSlab(int rank, int patch) const;

  int64_t tokens_;
  int ranks_;
  int patches_;
  std::vector<int64_t> begins_;  // Of slab (rank, patch) at rank * patches + patch, and the end.
};

int64_t TotalSize(const std::vector<TokenSpan>& spans);

}  // namespace patchflow
