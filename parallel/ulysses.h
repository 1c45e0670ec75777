// Ulysses: ranks swap tokens for heads around attention.
#pragma once

#include "engine/ports.h"
#include "parallel/communicator.h"
#include "parallel/token_plan.h"

namespace patchflow {

// Hands `inner` the tokens of all ranks of the axis, in order of rank, for a part of the heads:
// in.span stays that of the tokens given here. Two all-to-alls a call, of q, k and v together and
// of the output; heads divide by the ranks, tokens need not (shares are padded to the longest on
// the way). Everything is fresh. Borrows all but the numbers.
//   rank:  of this rank in the plan;  first: the plan's rank that is rank 0 of the axis.
// Source: DeepSpeed-Ulysses (arXiv 2309.14509), section 3.
class UlyssesAttention final : public SelfAttention {
 public:
  UlyssesAttention(Communicator& axis, const TokenPlan& plan, int rank, int first,
                   SelfAttention& inner)
      : axis_(axis), plan_(plan), rank_(rank), first_(first), inner_(inner) {}
  Tensor Attend(const AttentionInput& in) override;

 private:
  // [B, own tokens, H, D] each -> [B, all tokens, H / ranks, D] each.
  std::vector<Tensor> ToHeads(const std::vector<Tensor>& parts_BSHD,
                              const std::vector<TokenSpan>& spans);
  // And back, for the output.
  Tensor ToTokens(const Tensor& o_BThD, const std::vector<TokenSpan>& spans);

  Communicator& axis_;
  const TokenPlan& plan_;
  const int rank_;
  const int first_;
  SelfAttention& inner_;
};

}  // namespace patchflow
