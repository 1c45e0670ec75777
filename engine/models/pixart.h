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
absl::StatusOr<std::unique_ptr<Transformer>> LoadPixArt(
    const std::filesystem::path& transformer_dir, const TransformerOptions& options);

}  // namespace patchflow
