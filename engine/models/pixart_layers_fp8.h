// The layers of a block with products of 8-bit numbers (e4m3) by our own kernels: weights with a
// scale for each output, rounded once; activations with a scale for each token, rounded before each
// product. What is between the products stays bfloat16.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "engine/models/pixart_layers.h"

namespace patchflow {

// OK, or INVALID_ARGUMENT that says what the device or the shapes lack.
absl::Status CheckFp8Layers(const PixArtLayersOptions& options);
// Layers that were not packed are multiplied in bfloat16.
std::unique_ptr<PixArtLayers> MakeFp8Layers(double norm_eps);

}  // namespace patchflow
