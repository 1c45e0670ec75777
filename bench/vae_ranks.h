// One image decoded by several GPUs.
#pragma once

#include <cstdint>
#include <filesystem>

#include "bench/timing.h"
#include "engine/vae/decoder.h"

namespace patchflow {

struct RanksDecode {
  double ms = 0;           // Median, of the slowest rank.
  int64_t peak_bytes = 0;  // Over weights, of the rank that has most.
};
// By GPUs 0 .. ranks - 1, each with the decoder of vae_dir. Throws std::runtime_error.
RanksDecode DecodeOnGpus(int ranks, const std::filesystem::path& vae_dir, const VaeOptions& options,
                         int64_t size_px, Repeats repeats);

}  // namespace patchflow
