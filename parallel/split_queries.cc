#include "parallel/split_queries.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "parallel/exchange.h"
#include "parallel/token_plan.h"

namespace patchflow {
namespace {

// Work enough to fill a GPU, and short enough to be cancelled between two.
constexpr int64_t kQueriesPerPart = 8192;

int64_t PartsOf(const std::vector<TokenSpan>& spans) {
  int64_t most = 0;
  for (const TokenSpan& span : spans) most = std::max(most, span.size());
  return (most + kQueriesPerPart - 1) / kQueriesPerPart;
}

// own_BSHD in its place among the tokens of all ranks, which are still to come.
Tensor InPlace(const Tensor& own_BSHD, TokenSpan span, int64_t tokens) {
  const Tensor whole_BTHD =
      at::empty({own_BSHD.size(0), tokens, own_BSHD.size(2), own_BSHD.size(3)}, own_BSHD.options());
  whole_BTHD.narrow(1, span.begin, span.size()).copy_(own_BSHD);
  return whole_BTHD;
}

}  // namespace

SplitQueries::SplitQueries(Communicator& ranks, std::vector<TokenSpan> spans,
                           WideHeadOptions options)
    : ranks_(ranks),
      spans_(std::move(spans)),
      parts_(PartsOf(spans_)),
      options_{.workspace_bytes = options.workspace_bytes, .tile_done = {}},
      part_done_(std::move(options.tile_done)) {}

Tensor SplitQueries::Attend(const AttentionInput& in) {
  const TokenSpan own = spans_[ranks_.rank()];
  TORCH_CHECK(in.span == own, "tokens [", in.span.begin, ", ", in.span.end, ") of rank ",
              ranks_.rank(), ", which holds [", own.begin, ", ", own.end, ")");
  const int64_t tokens = TotalSize(spans_);
  const Tensor k_BTHD = InPlace(in.k_BSHD, own, tokens);
  const Tensor v_BTHD = InPlace(in.v_BSHD, own, tokens);
  Pending keys = ExchangeSpans(ranks_, k_BTHD, spans_);
  Pending values = ExchangeSpans(ranks_, v_BTHD, spans_);
  keys.Wait();
  values.Wait();
  const Tensor out_BSHD = at::empty(in.q_BSHD.sizes(), in.q_BSHD.options());
  for (int64_t part = 0; part < parts_; ++part) {
    const int64_t begin = own.size() * part / parts_;
    const int64_t size = own.size() * (part + 1) / parts_ - begin;
    if (size > 0) {
      out_BSHD.narrow(1, begin, size)
          .copy_(WideHeadAttention(in.q_BSHD.narrow(1, begin, size), k_BTHD, v_BTHD, options_));
    }
    if (part_done_) part_done_();
  }
  return out_BSHD;
}

}  // namespace patchflow
