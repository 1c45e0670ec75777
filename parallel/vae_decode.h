// One image decoded by all ranks of a group.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/vae/decoder.h"
#include "engine/vae/row_window.h"
#include "parallel/communicator.h"

namespace patchflow {

// `rows` in runs from top to bottom, as even as can be, the first ones one row longer.
std::vector<RowRange> RowShares(int64_t rows, int ranks);

// Collective: whole latents on every rank [N, c, H, W] -> pixels as VaeDecoder::Decode gives them,
// whole, on rank 0, and an undefined tensor on the others. Exact: each rank decodes a run of latent
// rows, and fetches what the layers need of the others' through HaloExchange, MergedMoments and
// SplitQueries, so that the result differs from one device's by the order of additions alone.
//   tile_done: as EnginePorts::decode has it; may be empty. Called after the merging of each
//              norm's statistics and between parts of the attention.
// Memory: decoder.PeakBytes(rows held here, W), the middle block's keys and values of the whole
// image, and the whole pixels on rank 0. An image of fewer latent rows than ranks (less than 8 px a
// rank) is decoded by rank 0 alone, without a call of tile_done.
// Throws what Decode throws, and CommunicatorError.
Tensor DecodeTogether(Communicator& ranks, const VaeDecoder& decoder, const Tensor& latents_NcHW,
                      const std::function<void()>& tile_done);

}  // namespace patchflow
