// DistriFusion as a plain loop of one thread over one whole model, without communicators.
#pragma once

#include "engine/denoiser.h"

namespace patchflow {

// DistriFusion on so many ranks: share r of the tokens attends over its own keys and values of this
// step and over everybody else's of the step before; all of this step in the first warmup_steps.
Tensor DistriFusionOracle(const Transformer& whole, const DenoiseJob& job, int ranks,
                          int warmup_steps);

}  // namespace patchflow
