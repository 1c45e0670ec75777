#include "bench/vae_ranks.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <string>

#include "bench/rank_threads.h"
#include "engine/device.h"
#include "parallel/vae_decode.h"

namespace patchflow {
namespace {

constexpr absl::Duration kLimit = absl::Minutes(3);

}  // namespace

RanksDecode DecodeOnGpus(int ranks, const std::filesystem::path& vae_dir, const VaeOptions& options,
                         int64_t size_px, Repeats repeats) {
  std::mutex mutex;
  RanksDecode most;
  RunOnRanks(at::kCUDA, ranks, kLimit, [&](const RankThread& rank) {
    VaeOptions own = options;
    own.read.device = rank.device;
    const auto decoder = LoadVaeDecoder(vae_dir, own);
    if (!decoder.ok()) throw std::runtime_error(std::string(decoder.status().message()));
    const VaeConfig& config = (*decoder)->config();
    const int64_t side = size_px / config.scale_factor;
    const Tensor latents = at::randn({1, config.latent_channels, side, side}, rank.device);
    const auto all = rank.world.Split(0, "all");
    ResetPeakMemory(rank.device);
    const int64_t before = MemoryOf(rank.device).used_bytes;
    const double ms =
        TimeOf(
            rank.device, [&] { DecodeTogether(*all, **decoder, latents, {}); }, repeats)
            .median_ms;
    const int64_t peak_bytes = MemoryOf(rank.device).peak_bytes - before;
    const std::lock_guard lock(mutex);
    most.ms = std::max(most.ms, ms);
    most.peak_bytes = std::max(most.peak_bytes, peak_bytes);
  });
  return most;
}

}  // namespace patchflow
