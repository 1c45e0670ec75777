// DistriFusion: every rank holds a share of the tokens and attends over the whole image, of which
// the others' keys and values are one step old.
#pragma once

#include <memory>

#include "engine/denoiser.h"
#include "parallel/layout.h"
#include "parallel/mesh.h"

namespace patchflow {

// In the first layout.warmup_steps steps keys and values are exchanged before they are used; after
// that behind the following blocks, for the next step. Each rank keeps keys and values of the whole
// image for every block, [B, S, 2, H, D], for the length of one Denoise(). Borrows transformer and
// mesh.
// Source: DistriFusion (arXiv 2402.19481), section 4.2. Ours: exactly warmup_steps synchronous
// steps; rows go straight into the cache of the peer; nothing is sent in the last step.
std::unique_ptr<Denoiser> MakeDistriFusion(const Transformer& transformer, const Layout& layout,
                                           const Mesh& mesh);

}  // namespace patchflow
