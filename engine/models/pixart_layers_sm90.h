// The layers of a block by our own kernels.
#pragma once

#include <memory>

#include "engine/models/pixart_layers.h"

namespace patchflow {

bool Sm90LayersServe(const PixArtLayersOptions& options);
std::unique_ptr<PixArtLayers> MakeSm90Layers(double norm_eps);

// y = residual + gate (sum + bias), in one pass; an undefined bias is 0, an undefined gate 1. y may
// be the residual.
void AddGatedResidual(const Tensor& sum_BSE, const Tensor& bias_E, const Tensor& gate_E,
                      const Tensor& residual_BSE, Tensor& y_BSE);

}  // namespace patchflow
