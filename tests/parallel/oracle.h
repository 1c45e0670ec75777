// The stale methods as plain loops of one thread over one whole model, without communicators,
// written apart from parallel/ to test it.
#pragma once

#include "engine/denoiser.h"

namespace patchflow {

// DistriFusion on so many ranks: share r of the tokens attends over its own keys and values of this
// step and over everybody else's of the step before; all of this step in the first warmup_steps.
Tensor DistriFusionOracle(const Transformer& whole, const DenoiseJob& job, int ranks,
                          int warmup_steps);

// PipeFusion with so many patches: after warmup_steps whole steps, patches are denoised one after
// the other, each attending over the newest keys and values that any patch has left. The number of
// stages does not matter.
Tensor PipeFusionOracle(const Transformer& whole, const DenoiseJob& job, int patches,
                        int warmup_steps);

}  // namespace patchflow
