// A thread for each GPU, joined by NCCL.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "absl/time/time.h"
#include "parallel/nccl_world.h"

namespace patchflow {

struct GpuRank {
  NcclWorld& world;
  at::Device device;
};

// `fn` on `ranks` threads in inference mode, each on a stream of its GPU, as the engine computes.
// The first to throw aborts the others. Throws std::runtime_error with what it said, or when not
// all have come back after `limit`: then threads are left behind.
void RunOnGpus(int ranks, absl::Duration limit, const std::function<void(const GpuRank&)>& fn);

}  // namespace patchflow
