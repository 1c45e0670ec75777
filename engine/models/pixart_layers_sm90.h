// The layers of a block by our own kernels.
#pragma once

#include <memory>

#include "engine/models/pixart_layers.h"

namespace patchflow {

bool Sm90LayersServe(const PixArtLayersOptions& options);
std::unique_ptr<PixArtLayers> MakeSm90Layers(double norm_eps);

}  // namespace patchflow
