// Whether ranks of several workers are about to warm up alike.
#pragma once

#include "absl/status/status.h"
#include "parallel/world.h"
#include "worker/warm_up.h"

namespace patchflow {

// Collective: every rank of the group calls it, on its thread, before any begins to warm up. Ranks
// that make other images would wait for each other until the watchdog of a first run ends them.
// INVALID_ARGUMENT, on every rank, in words of this one's flags, if any rank has another plan.
// Throws CommunicatorError.
absl::Status AgreeOnWarmUp(World& world, const WarmUpPlan& plan);

}  // namespace patchflow
