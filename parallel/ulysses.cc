#include "parallel/ulysses.h"

#include <ATen/ATen.h>

#include <array>
#include <optional>

#include "parallel/exchange.h"
#include "parallel/wide_copy.h"

namespace patchflow {
namespace {

using Transfer = Communicator::Transfer;

// Where each rank's tokens begin among those of all.
std::vector<int64_t> Begins(const std::vector<TokenSpan>& spans) {
  std::vector<int64_t> begins = {0};
  for (const TokenSpan& span : spans) {
    begins.push_back(begins.back() + span.size());
  }
  return begins;
}

// `copy(begin, count)` for the runs of ranks without `rank`.
template <typename F>
void ForOthers(int64_t rank, int64_t ranks, F copy) {
  if (rank > 0) copy(0, rank);
  if (rank + 1 < ranks) copy(rank + 1, ranks - rank - 1);
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
  const Tensor o_BSHD = at::empty(in.q_BSHD.sizes(), in.q_BSHD.options());
  const auto part = [&](size_t i) {
    return o_BSHD.narrow(0, static_cast<int64_t>(i) * count, count);
  };
  std::vector<Exchange> tokens;
  for (size_t i = 0; i < heads.size(); ++i) {
    heads[i].pending.Wait();
    const auto qkv_bThD = heads[i].whole.unbind(2);
    const Tensor o_bThD =
        inner_.Attend({in.block, in.span, qkv_bThD[0], qkv_bThD[1], qkv_bThD[2], in.images});
    tokens.push_back(SendTokens(o_bThD, spans, part(i)));
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    TakeTokens(tokens[i], part(i));
  }
  return o_BSHD;
}

UlyssesAttention::Exchange UlyssesAttention::SendHeads(const AttentionInput& in,
                                                       const std::vector<TokenSpan>& spans) {
  const Tensor& like = in.q_BSHD;
  const int64_t ranks = axis_.size();
  const int64_t here = axis_.rank();
  const auto begins = Begins(spans);
  const std::vector<int64_t> sizes = {like.size(0), like.size(1), 3, like.size(2) / ranks,
                                      like.size(3)};
  const auto parts_of = [&](const Tensor& x_BSHD) { return x_BSHD.unflatten(-2, {ranks, -1}); };
  const Tensor whole = at::empty({sizes[0], begins.back(), 3, sizes[3], sizes[4]}, like.options());
  const Tensor send = at::empty({ranks, sizes[0], sizes[1], 3, sizes[3], sizes[4]}, like.options());
  const auto pack = [&](const Tensor& x_BSnhD, const Tensor& own_BShD, const Tensor& to_nBShD) {
    CopyWide(own_BShD, x_BSnhD.select(-3, here));
    ForOthers(here, ranks, [&](int64_t begin, int64_t count) {
      CopyWide(to_nBShD.narrow(0, begin, count), x_BSnhD.narrow(-3, begin, count).movedim(-3, 0));
    });
  };
  const Tensor own = whole.narrow(1, begins[here], sizes[1]);
  if (const auto product_BS3HD = ProductOf(in)) {
    pack(parts_of(*product_BS3HD), own, send);
  } else {
    const std::array<Tensor, 3> qkv_BSHD = {in.q_BSHD, in.k_BSHD, in.v_BSHD};
    for (int64_t i = 0; i < 3; ++i) {
      pack(parts_of(qkv_BSHD[i]), own.select(2, i), send.select(3, i));
    }
  }
  std::vector<Transfer> transfers;
  ForPeersInTurn(axis_, [&](int to, int from) {
    for (int64_t row = 0; row < sizes[0]; ++row) {
      transfers.push_back({Transfer::Kind::kSend, send[to][row], to});
      transfers.push_back(
          {Transfer::Kind::kRecv, whole[row].narrow(0, begins[from], spans[from].size()), from});
    }
  });
  return {whole, axis_.Grouped(transfers)};
}

UlyssesAttention::Exchange UlyssesAttention::SendTokens(const Tensor& o_bThD,
                                                        const std::vector<TokenSpan>& spans,
                                                        const Tensor& o_bSHD) {
  const int64_t ranks = axis_.size();
  const int64_t here = axis_.rank();
  const auto begins = Begins(spans);
  const auto of = [&](int64_t rank) { return o_bThD.narrow(1, begins[rank], spans[rank].size()); };
  CopyWide(o_bSHD.unflatten(2, {ranks, -1}).select(2, here), of(here));
  const Tensor received =
      at::empty({ranks, o_bThD.size(0), spans[here].size(), o_bThD.size(2), o_bThD.size(3)},
                o_bThD.options());
  std::vector<Transfer> transfers;
  ForPeersInTurn(axis_, [&](int to, int from) {
    for (int64_t row = 0; row < o_bThD.size(0); ++row) {
      transfers.push_back({Transfer::Kind::kSend, of(to)[row], to});
      transfers.push_back({Transfer::Kind::kRecv, received[from][row], from});
    }
  });
  return {received, axis_.Grouped(transfers)};
}

void UlyssesAttention::TakeTokens(Exchange& exchange, const Tensor& o_bSHD) {
  exchange.pending.Wait();
  const Tensor to_bSnhD = o_bSHD.unflatten(2, {axis_.size(), -1});
  ForOthers(axis_.rank(), axis_.size(), [&](int64_t begin, int64_t count) {
    CopyWide(to_bSnhD.narrow(2, begin, count),
             exchange.whole.narrow(0, begin, count).permute({1, 2, 0, 3, 4}));
  });
}

}  // namespace patchflow
