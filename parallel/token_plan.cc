#include "parallel/token_plan.h"

#include <ATen/ATen.h>

#include "engine/weights/weight_reader.h"

namespace patchflow {

TokenPlan::TokenPlan(int64_t tokens, int ranks, int patches)
    : tokens_(tokens), ranks_(ranks), patches_(patches), begins_{0} {
  for (int rank = 0; rank < ranks; ++rank) {
    for (int patch = 0; patch < patches; ++patch) {
      begins_.push_back(begins_.back() + RasterSlab(rank, patch).size());
    }
  }
}

TokenSpan TokenPlan::RasterSlab(int rank, int patch) const {
  const UnitRange run = ShareOf(tokens_, {patch, patches_});
  const UnitRange slab = ShareOf(run.size(), {rank, ranks_});
  return {run.begin + slab.begin, run.begin + slab.end};
}

TokenSpan TokenPlan::Share(int rank) const {
  const size_t first = static_cast<size_t>(rank) * patches_;
  return {begins_[first], begins_[first + patches_]};
}

TokenSpan TokenPlan::Slab(int rank, int patch) const {
  const size_t index = static_cast<size_t>(rank) * patches_ + patch;
  return {begins_[index], begins_[index + 1]};
}

std::vector<TokenSpan> TokenPlan::Shares() const {
  std::vector<TokenSpan> shares;
  for (int rank = 0; rank < ranks_; ++rank) {
    shares.push_back(Share(rank));
  }
  return shares;
}

int TokenPlan::PatchOf(int rank, TokenSpan span) const {
  for (int patch = 0; patch < patches_; ++patch) {
    if (Slab(rank, patch) == span) {
      return patch;
    }
  }
  TORCH_CHECK(Share(rank) == span, "tokens [", span.begin, ", ", span.end, ") are no span of rank ",
              rank);
  return -1;
}

std::vector<TokenSpan> TokenPlan::Counterparts(int rank, TokenSpan span, int first,
                                               int count) const {
  const int patch = PatchOf(rank, span);
  std::vector<TokenSpan> spans;
  for (int peer = first; peer < first + count; ++peer) {
    spans.push_back(patch < 0 ? Share(peer) : Slab(peer, patch));
  }
  return spans;
}

Tensor TokenPlan::Order() const {
  if (ranks_ == 1 || patches_ == 1) {
    return {};
  }
  std::vector<Tensor> runs;
  for (int rank = 0; rank < ranks_; ++rank) {
    for (int patch = 0; patch < patches_; ++patch) {
      const TokenSpan raster = RasterSlab(rank, patch);
      runs.push_back(at::arange(raster.begin, raster.end, at::kLong));
    }
  }
  return at::cat(runs);
}

int64_t TotalSize(const std::vector<TokenSpan>& spans) {
  int64_t size = 0;
  for (const TokenSpan& span : spans) {
    size += span.size();
  }
  return size;
}

}  // namespace patchflow
