// Latents to colours by a linear map: pictures of unfinished images that cost next to nothing.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "engine/image/image.h"
#include "engine/transformer.h"
#include "engine/vae/decoder.h"

namespace patchflow {

// rgb = weights of each channel, and a bias, in [-1, 1]: the colour of the pixels of one latent.
struct LatentMap {
  int channels = 0;
  std::vector<float> weights;  // [channels + 1][3]; the bias last.
};

// Least squares over every latent of latents_cHW and the mean of its pixels in pixels_3HW, a whole
// multiple as large; pixels are clamped to [-1, 1]. Any device and float dtype. Throws c10::Error
// for other shapes and for latents that are not finite.
LatentMap FitLatentMap(const at::Tensor& latents_cHW, const at::Tensor& pixels_3HW);

// By one decode, on this device alone, of 8 x 8 squares of random colours (32 x 32 latents, the
// same for every model), of which the standard deviation, 1.5, is that at which pictures of the
// bundled model come out best: their mean is 17 dB from the image after the last step, 24 being
// what a map fitted to the very images reaches. 0.1 to 0.5 s for the bundled model on two busy
// cores.
LatentMap FitLatentMap(const VaeDecoder& vae);

// Latents of one image on the host, as tokens: [grid.size(), patch_size^2 * channels], float32.
struct LatentTokens {
  std::span<const float> values;
  TokenGrid grid;
  int patch_size = 1;
};

// A preview's longest side in pixels where none was asked for.
inline constexpr int kDefaultPreviewEdgePx = 256;
// Beyond twice the size of the latents there is nothing to see but the interpolation.
inline constexpr int kMaxPreviewScale = 2;

// The longest side is the least of max_edge_px (kDefaultPreviewEdgePx if 0) and kMaxPreviewScale
// times that of the latents, the other one in proportion, by a triangle filter. Latents that are
// not finite are black. Calls nothing of LibTorch. About 5 ns a latent and 20 ns a pixel.
Image DrawLatents(const LatentMap& map, const LatentTokens& latents, int max_edge_px);

}  // namespace patchflow
