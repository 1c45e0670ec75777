// Ulysses: ranks swap tokens for heads around attention.
#pragma once

#include <vector>

#include "engine/ports.h"
#include "parallel/communicator.h"
#include "parallel/token_plan.h"

namespace patchflow {

// Hands `inner` the tokens of all ranks of the axis, in order of rank, for a part of the heads:
// in.span stays that of the tokens given here. Two exchanges for every branch of guidance held
// here, of q, k and v together and of the output, those of one branch behind the attention of the
// other; what stays on this rank is copied once. Heads divide by the ranks, tokens need not.
// Everything is fresh. Borrows all but the numbers.
//   rank:  of this rank in the plan;  first: the plan's rank that is rank 0 of the axis.
//   by_branch: `inner` takes the branches in turn; not if it keeps state between calls.
// Source: DeepSpeed-Ulysses (arXiv 2309.14509), section 3. Ours: branch by branch.
class UlyssesAttention final : public SelfAttention {
 public:
  UlyssesAttention(Communicator& axis, const TokenPlan& plan, int rank, int first, bool by_branch,
                   SelfAttention& inner)
      : axis_(axis),
        plan_(plan),
        rank_(rank),
        first_(first),
        by_branch_(by_branch),
        inner_(inner) {}
  Tensor Attend(const AttentionInput& in) override;

 private:
  struct Exchange {
    Tensor whole;  // What arrives, around what was here.
    Pending pending;
  };
  // [b, own tokens, H, D] each -> [b, all tokens, 3, H / ranks, D].
  Exchange SendHeads(const AttentionInput& in, const std::vector<TokenSpan>& spans);
  // [b, all tokens, H / ranks, D] -> [ranks, b, own tokens, H / ranks, D] without this rank's,
  // which goes into o_bSHD at once.
  Exchange SendTokens(const Tensor& o_bThD, const std::vector<TokenSpan>& spans,
                      const Tensor& o_bSHD);
  void TakeTokens(Exchange& exchange, const Tensor& o_bSHD);

  Communicator& axis_;
  const TokenPlan& plan_;
  const int rank_;
  const int first_;
  const bool by_branch_;
  SelfAttention& inner_;
};

}  // namespace patchflow
