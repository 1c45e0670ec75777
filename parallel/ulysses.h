// Ulysses: ranks swap tokens for heads around attention.
#pragma once

#include <vector>

#include "engine/ports.h"
#include "parallel/communicator.h"
#include "parallel/token_plan.h"

namespace patchflow {

// Hands `inner` the tokens of all ranks of the axis, in order of rank, for a part of the heads:
// in.span stays that of the tokens given here. Two all-to-alls for every branch of guidance held
// here, of q, k and v together and of the output, those of one branch behind the attention of the
// other; heads divide by the ranks, tokens need not (shares are padded to the longest on the way).
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
  // On its way to other ranks.
  struct Exchange {
    Tensor received;  // Dim 0 is the peer.
    Pending pending;
  };
  // [b, own tokens, H, D] each, on their way as [ranks, b, own tokens, 3, H / ranks, D].
  Exchange SendHeads(const AttentionInput& in, const std::vector<TokenSpan>& spans);
  // q, k and v, [b, all tokens, H / ranks, D].
  std::vector<Tensor> TakeHeads(Exchange& exchange, const std::vector<TokenSpan>& spans);
  // And back, for the output: as [ranks, b, own tokens, H / ranks, D].
  Exchange SendTokens(const Tensor& o_bThD, const std::vector<TokenSpan>& spans);
  void TakeTokens(Exchange& exchange, const Tensor& o_bSHD);
  Exchange Begin(const Tensor& send);

  Communicator& axis_;
  const TokenPlan& plan_;
  const int rank_;
  const int first_;
  const bool by_branch_;
  SelfAttention& inner_;
};

}  // namespace patchflow
