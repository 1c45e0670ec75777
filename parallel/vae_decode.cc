#include "parallel/vae_decode.h"

#include <ATen/ATen.h>

#include "engine/weights/weight_reader.h"
#include "parallel/merged_moments.h"
#include "parallel/neighbour_rows.h"
#include "parallel/split_queries.h"

namespace patchflow {
namespace {

std::vector<TokenSpan> TokensOf(const std::vector<RowRange>& rows, int64_t width) {
  std::vector<TokenSpan> tokens;
  for (const RowRange& own : rows) tokens.push_back({own.begin * width, own.end * width});
  return tokens;
}

// Pixels of all ranks, [N, 3, H, W], on rank 0. Each rank sends its own once.
Tensor GatherPixels(Communicator& ranks, const Tensor& own_NOhW,
                    const std::vector<RowRange>& latent_rows, int64_t scale) {
  using Kind = Communicator::Transfer::Kind;
  const Tensor own_NhWO = own_NOhW.permute({0, 2, 3, 1});
  std::vector<Communicator::Transfer> transfers;
  Tensor whole_NHWO;
  if (ranks.rank() == 0) {
    whole_NHWO = at::empty(
        {own_NhWO.size(0), latent_rows.back().end * scale, own_NhWO.size(2), own_NhWO.size(3)},
        own_NhWO.options());
    whole_NHWO.narrow(1, 0, own_NhWO.size(1)).copy_(own_NhWO);
  }
  for (int64_t n = 0; n < own_NhWO.size(0); ++n) {
    if (ranks.rank() != 0) {
      transfers.push_back({Kind::kSend, own_NhWO[n], 0});
      continue;
    }
    for (int peer = 1; peer < ranks.size(); ++peer) {
      const RowRange rows = latent_rows[peer];
      transfers.push_back(
          {Kind::kRecv, whole_NHWO[n].narrow(0, rows.begin * scale, rows.size() * scale), peer});
    }
  }
  ranks.Grouped(transfers).Wait();
  return whole_NHWO.defined() ? whole_NHWO.permute({0, 3, 1, 2}) : Tensor();
}

}  // namespace

std::vector<RowRange> RowShares(int64_t rows, int ranks) {
  std::vector<RowRange> shares;
  for (int rank = 0; rank < ranks; ++rank) {
    const UnitRange share = ShareOf(rows, {rank, ranks});
    shares.push_back({share.begin, share.end});
  }
  return shares;
}

Tensor DecodeTogether(Communicator& ranks, const VaeDecoder& decoder, const Tensor& latents_NcHW,
                      const std::function<void()>& tile_done) {
  const int64_t image_rows = latents_NcHW.size(2);
  if (image_rows < ranks.size()) {
    return ranks.rank() == 0 ? DecodeWhole(decoder, latents_NcHW, {}) : Tensor();
  }
  const std::vector<RowRange> rows = RowShares(image_rows, ranks.size());
  const RowRange own = rows[ranks.rank()];
  HaloExchange neighbours(ranks);
  MergedMoments moments(ranks, rows, decoder.options().read.device, tile_done);
  SplitQueries attention(
      ranks, TokensOf(rows, latents_NcHW.size(3)),
      {.workspace_bytes = decoder.options().workspace_bytes, .tile_done = tile_done});
  // Slabs differ from rank to rank: their ends are no place to ask all ranks.
  const Tensor pixels =
      decoder.Decode(latents_NcHW.narrow(2, own.begin, own.size()), own.begin, image_rows,
                     {.neighbours = neighbours, .moments = moments, .attention = attention}, {});
  return GatherPixels(ranks, pixels, rows, decoder.config().scale_factor);
}

}  // namespace patchflow
