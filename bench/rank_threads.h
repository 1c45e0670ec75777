// A thread for each rank: GPUs joined by NCCL, or threads over host memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "absl/time/time.h"
#include "parallel/world.h"

namespace patchflow {

struct RankThread {
  World& world;
  at::Device device;
};

// `fn` on `ranks` threads in inference mode, as the engine computes: on kCUDA each on a stream of
// its GPU, on kCPU all on the one processor. The first to throw aborts the others. Throws
// std::runtime_error with what it said, or when not all have come back after `limit`: then threads
// are left behind.
void RunOnRanks(at::DeviceType type, int ranks, absl::Duration limit,
                const std::function<void(const RankThread&)>& fn);

}  // namespace patchflow
