#include "parallel/patch_cache.h"

#include <ATen/ATen.h>

#include "parallel/wide_copy.h"

namespace patchflow {

PatchCache::PatchCache(const TokenPlan& plan, Ranks ranks, int num_blocks, SelfAttention& inner)
    : plan_(plan), ranks_(ranks), inner_(inner), begins_{0}, blocks_(num_blocks) {
  for (int patch = 0; patch < plan.patches(); ++patch) {
    int64_t size = 0;
    for (int rank = ranks.first; rank < ranks.first + ranks.count; ++rank) {
      size += plan.Slab(rank, patch).size();
    }
    begins_.push_back(begins_.back() + size);
  }
}

Tensor PatchCache::Attend(const AttentionInput& in) {
  Tensor& cache = blocks_[in.block];
  if (!cache.defined()) {
    cache = Allocate(in);
  }
  const int patch = plan_.PatchOf(ranks_.rank, in.span);
  if (patch < 0 && ranks_.count > 1 && !patch_major_.defined()) {
    patch_major_ = at::tensor(PatchMajor(), at::kLong).to(in.k_BSHD.device());
  }
  Write(cache, 0, in.k_BSHD, patch);
  Write(cache, 1, in.v_BSHD, patch);
  return inner_.Attend({in.block, in.span, in.q_BSHD, cache[0], cache[1], in.images});
}

Tensor PatchCache::Allocate(const AttentionInput& in) const {
  const Tensor& k = in.k_BSHD;
  return at::empty({2, k.size(0), begins_.back(), k.size(2), k.size(3)}, k.options());
}

void PatchCache::Write(const Tensor& cache_TBTHD, int part, const Tensor& fresh_BTHD,
                       int patch) const {
  Tensor whole = cache_TBTHD[part];
  if (patch >= 0) {
    CopyWide(whole.narrow(1, begins_[patch], begins_[patch + 1] - begins_[patch]), fresh_BTHD);
  } else if (ranks_.count == 1) {
    CopyWide(whole, fresh_BTHD);
  } else {
    at::index_select_out(whole, fresh_BTHD, 1, patch_major_);
  }
}

std::vector<int64_t> PatchCache::PatchMajor() const {
  std::vector<int64_t> from;
  const int64_t origin = plan_.Share(ranks_.first).begin;
  for (int patch = 0; patch < plan_.patches(); ++patch) {
    for (int rank = ranks_.first; rank < ranks_.first + ranks_.count; ++rank) {
      const TokenSpan slab = plan_.Slab(rank, patch);
      for (int64_t token = slab.begin; token < slab.end; ++token) {
        from.push_back(token - origin);
      }
    }
  }
  return from;
}

}  // namespace patchflow
