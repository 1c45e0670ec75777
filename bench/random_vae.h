// A folder with a decoder of Stable Diffusion's size and random weights: times and memory need no
// real ones.
#pragma once

#include <filesystem>

namespace patchflow {

// Writes config.json and weights (bfloat16, 99 MB) as diffusers names them: 128, 256, 512, 512
// channels, 2 layers a block, 4 latent channels, no force_upcast; no encoder.
void WriteRandomVae(const std::filesystem::path& dir);

}  // namespace patchflow
