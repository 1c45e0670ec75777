// Where the time of a decode goes: its passes one by one, at the shapes of Stable Diffusion's
// decoder.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace patchflow {

// Prints, for one slab of each map of an image of size_px, TFLOP/s of the convolutions and GB/s of
// the passes between them, and for its middle attention milliseconds and TFLOP/s under several
// bounds of the workspace. On the current CUDA device and stream.
void PrintVaeParts(int64_t size_px, at::ScalarType dtype, int64_t workspace_bytes);

}  // namespace patchflow
