// PipeFusion as a plain loop of one thread over one whole model, without communicators.
#pragma once

#include "engine/denoiser.h"

namespace patchflow {

// PipeFusion with so many patches: after warmup_steps whole steps, patches are denoised one after
// the other, each attending over the newest keys and values that any patch has left. The number of
// stages does not matter.
Tensor PipeFusionOracle(const Transformer& whole, const DenoiseJob& job, int patches,
                        int warmup_steps);

}  // namespace patchflow
