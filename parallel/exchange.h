// Every rank's rows to every other rank, in place.
#pragma once

#include <vector>

#include "engine/ports.h"
#include "parallel/communicator.h"

namespace patchflow {

// f(to, from) for the others of `axis`, so that each rank sends to one and receives from one at a
// time and not all to the same.
template <typename F>
void ForPeersInTurn(const Communicator& axis, F f) {
  for (int i = 1; i < axis.size(); ++i) {
    f((axis.rank() + i) % axis.size(), (axis.rank() - i + axis.size()) % axis.size());
  }
}

// whole_BS is contiguous, [B, S, ...] over the tokens of all ranks of `axis`, of which this rank
// has filled spans[axis.rank()]; afterwards all are filled. Spans may differ in size. Sends (ranks
// - 1) times its own rows, without a copy.
Pending ExchangeSpans(Communicator& axis, const Tensor& whole_BS,
                      const std::vector<TokenSpan>& spans);

// The tokens of all ranks, [B, S, C], from the span that each holds. Waited for. `axis` may be
// nullptr for one rank.
Tensor GatherSpans(Communicator* axis, const Tensor& own_BSC, const std::vector<TokenSpan>& spans);

}  // namespace patchflow
