// PipeFusion's keys and values: fresh for the patches that have come by in this step, a step old
// for the others.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/ports.h"
#include "parallel/token_plan.h"

namespace patchflow {

// Per block keys and values of all tokens of the plan's ranks [first, first + count), by patch and
// then by rank: [2, B, T, H, D], allocated at the first call and updated in place. `rank` holds the
// span given; k and v are of the counterparts in all of those ranks, in order of rank, as Ulysses
// delivers them. Queries attend over the whole cache through `inner`. Borrows plan and inner.
// Source: PipeFusion (arXiv 2405.14430), section 3.2.
class PatchCache final : public SelfAttention {
 public:
  struct Ranks {
    int rank = 0;
    int first = 0;
    int count = 1;
  };
  PatchCache(const TokenPlan& plan, Ranks ranks, int num_blocks, SelfAttention& inner);
  Tensor Attend(const AttentionInput& in) override;

 private:
  Tensor Allocate(const AttentionInput& in) const;
  void Write(const Tensor& cache_TBTHD, int part, const Tensor& fresh_BTHD, int patch) const;
  std::vector<int64_t> PatchMajor() const;

  const TokenPlan& plan_;
  const Ranks ranks_;
  SelfAttention& inner_;
  std::vector<int64_t> begins_;  // Of each patch in the cache, and the end.
  Tensor patch_major_;           // Where the token at each place comes from in a whole share's k.
  std::vector<Tensor> blocks_;
};

}  // namespace patchflow
