#include "parallel/exchange.h"

#include <ATen/ATen.h>

#include "parallel/token_plan.h"

namespace patchflow {

Pending ExchangeSpans(Communicator& axis, const Tensor& whole_BS,
                      const std::vector<TokenSpan>& spans) {
  using Kind = Communicator::Transfer::Kind;
  const TokenSpan own = spans[axis.rank()];
  std::vector<Communicator::Transfer> transfers;
  ForPeersInTurn(axis, [&](int to, int from) {
    for (int64_t row = 0; row < whole_BS.size(0); ++row) {
      const Tensor whole_S = whole_BS[row];
      transfers.push_back({Kind::kSend, whole_S.narrow(0, own.begin, own.size()), to});
      transfers.push_back(
          {Kind::kRecv, whole_S.narrow(0, spans[from].begin, spans[from].size()), from});
    }
  });
  return axis.Grouped(transfers);
}

Tensor GatherSpans(Communicator* axis, const Tensor& own_BSC, const std::vector<TokenSpan>& spans) {
  if (axis == nullptr) {
    return own_BSC;
  }
  const TokenSpan own = spans[axis->rank()];
  const Tensor whole_BSC =
      at::empty({own_BSC.size(0), TotalSize(spans), own_BSC.size(2)}, own_BSC.options());
  whole_BSC.narrow(1, own.begin, own.size()).copy_(own_BSC);
  ExchangeSpans(*axis, whole_BSC, spans).Wait();
  return whole_BSC;
}

}  // namespace patchflow
