// The layers of a block by the CPU kernels of engine/kernels: weights laid out once, what follows a
// product done while its tile is in registers, and as few rounds of all threads as ports allow.
#pragma once

#include <memory>

#include "engine/kernels/cpu_kernels.h"
#include "engine/models/pixart_layers.h"

namespace patchflow {

// `kernels` must outlive the result.
std::unique_ptr<PixArtLayers> MakeCpuLayers(const CpuKernels& kernels, double norm_eps);

}  // namespace patchflow
