#include "parallel/ulysses.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace patchflow {
namespace {

int64_t Longest(const std::vector<TokenSpan>& spans) {
  int64_t longest = 0;
  for (const TokenSpan& span : spans) {
    longest = std::max(longest, span.size());
  }
  return longest;
}

}  // namespace

Tensor UlyssesAttention::Attend(const AttentionInput& in) {
  const auto spans = plan_.Counterparts(rank_, in.span, first_, axis_.size());
  const auto qkv = ToHeads({in.q_BSHD, in.k_BSHD, in.v_BSHD}, spans);
  return ToTokens(inner_.Attend({in.block, in.span, qkv[0], qkv[1], qkv[2], in.images}), spans);
}

std::vector<Tensor> UlyssesAttention::ToHeads(const std::vector<Tensor>& parts_BSHD,
                                              const std::vector<TokenSpan>& spans) {
  const Tensor& like = parts_BSHD[0];
  const int64_t ranks = axis_.size();
  const int64_t longest = Longest(spans);
  const Tensor send = at::empty(
      {ranks, like.size(0), longest, 3, like.size(2) / ranks, like.size(3)}, like.options());
  for (int64_t i = 0; i < 3; ++i) {
    send.select(3, i)
        .narrow(2, 0, like.size(1))
        .copy_(parts_BSHD[i].unflatten(2, {ranks, like.size(2) / ranks}).permute({2, 0, 1, 3, 4}));
  }
  const Tensor received = at::empty_like(send);
  axis_.AllToAll(send, received).Wait();
  if (TotalSize(spans) == ranks * longest) {
    return received.transpose(0, 1).flatten(1, 2).unbind(2);
  }
  std::vector<Tensor> tokens;
  for (int64_t peer = 0; peer < ranks; ++peer) {
    tokens.push_back(received[peer].narrow(1, 0, spans[peer].size()));
  }
  return at::cat(tokens, 1).unbind(2);
}

Tensor UlyssesAttention::ToTokens(const Tensor& o_BThD, const std::vector<TokenSpan>& spans) {
  const int64_t ranks = axis_.size();
  const int64_t longest = Longest(spans);
  const Tensor send =
      at::empty({ranks, o_BThD.size(0), longest, o_BThD.size(2), o_BThD.size(3)}, o_BThD.options());
  int64_t begin = 0;
  for (int64_t peer = 0; peer < ranks; ++peer) {
    const int64_t size = spans[peer].size();
    send[peer].narrow(1, 0, size).copy_(o_BThD.narrow(1, begin, size));
    begin += size;
  }
  const Tensor received_PBShD = at::empty_like(send);
  axis_.AllToAll(send, received_PBShD).Wait();
  return received_PBShD.narrow(2, 0, spans[axis_.rank()].size())
      .permute({1, 2, 0, 3, 4})
      .flatten(2, 3)
      .contiguous();
}

}  // namespace patchflow
