// Decoded tensors to images.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "engine/image/image.h"

namespace patchflow {

// pixels_3HW in [-1, 1], any float dtype -> RGB8 as diffusers rounds it: round half to even of 255
// clamp(x / 2 + 0.5, 0, 1), in float32. Converted on its device in bands of rows, so that only
// bytes are copied and no second image is held in float32. Nothing if a pixel is NaN or infinite.
// Returns when the pixels are on the host.
std::optional<Image> ImageFromTensor(const at::Tensor& pixels_3HW);

}  // namespace patchflow
