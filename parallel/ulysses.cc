#include "parallel/ulysses.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <optional>

#include "parallel/wide_copy.h"

namespace patchflow {
namespace {

int64_t Longest(const std::vector<TokenSpan>& spans) {
  int64_t longest = 0;
  for (const TokenSpan& span : spans) {
    longest = std::max(longest, span.size());
  }
  return longest;
}

// [B, S, 3, H, D] over q, k and v where they are slices of one product; else nothing.
std::optional<Tensor> ProductOf(const AttentionInput& in) {
  const Tensor& q = in.q_BSHD;
  const int64_t step = in.k_BSHD.storage_offset() - q.storage_offset();
  const bool slices = q.is_alias_of(in.k_BSHD) && q.is_alias_of(in.v_BSHD) &&
                      q.strides() == in.k_BSHD.strides() && q.strides() == in.v_BSHD.strides() &&
                      in.v_BSHD.storage_offset() - in.k_BSHD.storage_offset() == step && step > 0;
  if (!slices) {
    return std::nullopt;
  }
  return q.as_strided({q.size(0), q.size(1), 3, q.size(2), q.size(3)},
                      {q.stride(0), q.stride(1), step, q.stride(2), q.stride(3)});
}

// The rows [begin, begin + count) of the batch.
AttentionInput RowsOf(const AttentionInput& in, int64_t begin, int64_t count) {
  const auto rows = [&](const Tensor& x) { return x.narrow(0, begin, count); };
  return {in.block, in.span, rows(in.q_BSHD), rows(in.k_BSHD), rows(in.v_BSHD), in.images};
}

}  // namespace

Tensor UlyssesAttention::Attend(const AttentionInput& in) {
  const auto spans = plan_.Counterparts(rank_, in.span, first_, axis_.size());
  const int64_t rows = in.q_BSHD.size(0);
  const int64_t count = by_branch_ ? in.images : rows;
  std::vector<Exchange> heads;
  for (int64_t begin = 0; begin < rows; begin += count) {
    heads.push_back(SendHeads(RowsOf(in, begin, count), spans));
  }
  std::vector<Exchange> tokens;
  for (Exchange& exchange : heads) {
    const auto qkv = TakeHeads(exchange, spans);
    tokens.push_back(
        SendTokens(inner_.Attend({in.block, in.span, qkv[0], qkv[1], qkv[2], in.images}), spans));
  }
  const Tensor o_BSHD = at::empty(in.q_BSHD.sizes(), in.q_BSHD.options());
  for (size_t i = 0; i < tokens.size(); ++i) {
    TakeTokens(tokens[i], o_BSHD.narrow(0, static_cast<int64_t>(i) * count, count));
  }
  return o_BSHD;
}

UlyssesAttention::Exchange UlyssesAttention::Begin(const Tensor& send) {
  Tensor received = at::empty_like(send);
  Pending pending = axis_.AllToAll(send, received);
  return {std::move(received), std::move(pending)};
}

UlyssesAttention::Exchange UlyssesAttention::SendHeads(const AttentionInput& in,
                                                       const std::vector<TokenSpan>& spans) {
  const Tensor& like = in.q_BSHD;
  const int64_t ranks = axis_.size();
  const Tensor send = at::empty(
      {ranks, like.size(0), Longest(spans), 3, like.size(2) / ranks, like.size(3)}, like.options());
  const Tensor own = send.narrow(2, 0, like.size(1));
  if (const auto product_BS3HD = ProductOf(in)) {
    CopyWide(own, product_BS3HD->unflatten(3, {ranks, -1}).permute({3, 0, 1, 2, 4, 5}));
    return Begin(send);
  }
  const std::array<Tensor, 3> parts_BSHD = {in.q_BSHD, in.k_BSHD, in.v_BSHD};
  for (int64_t i = 0; i < 3; ++i) {
    CopyWide(own.select(3, i), parts_BSHD[i].unflatten(2, {ranks, -1}).permute({2, 0, 1, 3, 4}));
  }
  return Begin(send);
}

std::vector<Tensor> UlyssesAttention::TakeHeads(Exchange& exchange,
                                                const std::vector<TokenSpan>& spans) {
  exchange.pending.Wait();
  const Tensor& received = exchange.received;
  const int64_t ranks = axis_.size();
  if (TotalSize(spans) == ranks * received.size(2)) {  // A view, of one row.
    return received.transpose(0, 1).flatten(1, 2).unbind(2);
  }
  std::vector<Tensor> tokens;
  for (int64_t peer = 0; peer < ranks; ++peer) {
    tokens.push_back(received[peer].narrow(1, 0, spans[peer].size()));
  }
  return at::cat(tokens, 1).unbind(2);
}

UlyssesAttention::Exchange UlyssesAttention::SendTokens(const Tensor& o_bThD,
                                                        const std::vector<TokenSpan>& spans) {
  const int64_t ranks = axis_.size();
  const int64_t longest = Longest(spans);
  if (TotalSize(spans) == ranks * longest) {  // A view, of one row.
    return Begin(o_bThD.unflatten(1, {ranks, longest}).transpose(0, 1).contiguous());
  }
  const Tensor send =
      at::empty({ranks, o_bThD.size(0), longest, o_bThD.size(2), o_bThD.size(3)}, o_bThD.options());
  int64_t begin = 0;
  for (int64_t peer = 0; peer < ranks; ++peer) {
    const int64_t size = spans[peer].size();
    CopyWide(send[peer].narrow(1, 0, size), o_bThD.narrow(1, begin, size));
    begin += size;
  }
  return Begin(send);
}

void UlyssesAttention::TakeTokens(Exchange& exchange, const Tensor& o_bSHD) {
  exchange.pending.Wait();
  const Tensor received_PbShD = exchange.received.narrow(2, 0, o_bSHD.size(1));
  CopyWide(o_bSHD.unflatten(2, {axis_.size(), -1}), received_PbShD.permute({1, 2, 0, 3, 4}));
}

}  // namespace patchflow
