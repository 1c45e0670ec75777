// PipeFusion: stages of consecutive blocks, through which patches of the image flow.
#pragma once

#include <memory>

#include "engine/denoiser.h"
#include "parallel/layout.h"
#include "parallel/mesh.h"

namespace patchflow {

// The transformer holds the blocks of this rank's stage. In the first layout.warmup_steps steps the
// whole image goes through the stages one after the other. After that layout.patches patches
// follow each other, each attending over fresh keys and values of the patches before it and over
// those of the last step for the ones behind it; the last stage steps the sampler, patch by patch,
// and feeds the first. A patch is received while the one before it is being computed. Ranks of the
// sequence axis share each patch, exactly.
// StepMonitor::Continue(t) is asked before the last patch of step t - 1, so that the first patch of
// step t can be on its way. Borrows transformer and mesh.
// Source: PipeFusion (arXiv 2405.14430), section 3. Ours: exactly warmup_steps synchronous steps,
// patches of any size, one sampler history a patch.
std::unique_ptr<Denoiser> MakePipeFusion(const Transformer& transformer, const Layout& layout,
                                         const Mesh& mesh);

}  // namespace patchflow
