// The transformer of PixArt-alpha (arXiv 2310.00426) and PixArt-Sigma (arXiv 2403.04692), as
// diffusers has it.
#pragma once

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/transformer.h"

namespace patchflow {

// Linear layers are split over heads and hidden features, everything outside the blocks is held by
// every shard. A shard without heads or hidden features takes part in the sums with zeros.
//
// With float8 (e4m3) as the dtype to read in, the transformer is of bfloat16 but for the blocks'
// products over image tokens: queries, keys, values and the output of self-attention, the query and
// output of attention to the text, and both of the MLP. INVALID_ARGUMENT where that can't be:
// anywhere but on Hopper, and for shards whose features are no multiples of 16.
absl::StatusOr<std::unique_ptr<Transformer>> LoadPixArt(
    const std::filesystem::path& transformer_dir, const TransformerOptions& options);

}  // namespace patchflow
