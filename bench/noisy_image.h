// The image that PNG encoding is measured on: hard to compress, as the first steps of a diffusion
// model are.
#pragma once

#include <cstdint>

#include "engine/image/image.h"

namespace patchflow {

// Colour gradients under noise of a standard deviation of 16 levels, clamped to 0 .. 255: the same
// on every machine, as it is made by integer arithmetic from the seed alone.
Image NoisyImage(int width_px, int height_px, uint64_t seed);

}  // namespace patchflow
