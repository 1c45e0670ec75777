#include "engine/latent_map.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>

namespace patchflow {
namespace {

constexpr int64_t kSquares = 8;     // A side of the known latents,
constexpr int64_t kSquareSize = 4;  // and of each of them, in latents.
constexpr double kSpread = 1.5;
constexpr uint64_t kSeed = 20240521;

constexpr int kColours = 3;

// Rows of float colours, [height][width][3].
struct Colours {
  int width = 0;
  int height = 0;
  std::vector<float> values;
  float* At(int y, int x) {
    return values.data() + (static_cast<size_t>(y) * static_cast<size_t>(width) + x) * kColours;
  }
};

Colours ColoursOf(const LatentMap& map, const LatentTokens& latents) {
  const int patch = latents.patch_size;
  Colours colours{
      static_cast<int>(latents.grid.w) * patch, static_cast<int>(latents.grid.h) * patch, {}};
  colours.values.resize(static_cast<size_t>(colours.width) * colours.height * kColours);
  const float* bias = map.weights.data() + static_cast<size_t>(map.channels) * kColours;
  for (int y = 0; y < colours.height; ++y) {
    for (int x = 0; x < colours.width; ++x) {
      const int64_t token = (y / patch) * latents.grid.w + x / patch;
      const int64_t place = (token * patch + y % patch) * patch + x % patch;
      const float* latent = latents.values.data() + place * map.channels;
      float* out = colours.At(y, x);
      std::copy_n(bias, kColours, out);
      for (int c = 0; c < map.channels; ++c) {
        for (int k = 0; k < kColours; ++k) {
          out[k] += latent[c] * map.weights[static_cast<size_t>(c * kColours + k)];
        }
      }
    }
  }
  return colours;
}

// What of a row of `from` values each of `to` is made of.
struct Mix {
  int first = 0;
  std::vector<float> shares;
};

std::vector<Mix> TriangleFilter(int from, int to) {
  const double scale = static_cast<double>(from) / to;
  const double support = std::max(1.0, scale);
  std::vector<Mix> mixes(static_cast<size_t>(to));
  for (int i = 0; i < to; ++i) {
    const double centre = (i + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(std::floor(centre - support)));
    const int last = std::min(from - 1, static_cast<int>(std::ceil(centre + support)));
    double sum = 0;
    Mix& mix = mixes[static_cast<size_t>(i)];
    mix.first = first;
    for (int j = first; j <= last; ++j) {
      const double share = std::max(0.0, 1 - std::abs(j + 0.5 - centre) / support);
      mix.shares.push_back(static_cast<float>(share));
      sum += share;
    }
    for (float& share : mix.shares) share /= static_cast<float>(sum);
  }
  return mixes;
}

// Resized along x, and turned, so that twice is both ways.
Colours ResizedAndTurned(Colours& colours, int width) {
  const std::vector<Mix> mixes = TriangleFilter(colours.width, width);
  Colours turned{colours.height, width, {}};
  turned.values.resize(colours.values.size() / static_cast<size_t>(colours.width) * width);
  for (int x = 0; x < width; ++x) {
    const Mix& mix = mixes[static_cast<size_t>(x)];
    for (int y = 0; y < colours.height; ++y) {
      float* out = turned.At(x, y);
      const float* in = colours.At(y, mix.first);
      for (const float share : mix.shares) {
        for (int k = 0; k < kColours; ++k) out[k] += share * *in++;
      }
    }
  }
  return turned;
}

int OtherEdge(int edge, int longest, int longest_asked) {
  return std::max(
      1, static_cast<int>(std::lround(static_cast<double>(edge) * longest_asked / longest)));
}

uint8_t ByteOf(float colour) {
  if (!std::isfinite(colour)) return 0;
  return static_cast<uint8_t>(std::lround(255 * std::clamp(colour / 2 + 0.5F, 0.0F, 1.0F)));
}

}  // namespace

LatentMap FitLatentMap(const at::Tensor& latents_cHW, const at::Tensor& pixels_3HW) {
  const int64_t scale = pixels_3HW.size(1) / latents_cHW.size(1);
  TORCH_CHECK(scale >= 1 && pixels_3HW.size(0) == kColours &&
                  pixels_3HW.size(1) == scale * latents_cHW.size(1) &&
                  pixels_3HW.size(2) == scale * latents_cHW.size(2),
              "pixels of ", pixels_3HW.sizes(), " are not of latents of ", latents_cHW.sizes());
  const auto host = [](const at::Tensor& t) { return t.to(at::kCPU).to(at::kDouble); };
  const int64_t channels = latents_cHW.size(0);
  const at::Tensor x_SC = host(latents_cHW).reshape({channels, -1}).t();
  const at::Tensor design = at::cat({x_SC, at::ones({x_SC.size(0), 1}, x_SC.options())}, 1);
  const at::Tensor colours_S3 =
      at::avg_pool2d(host(pixels_3HW).clamp(-1, 1), {scale, scale}).reshape({kColours, -1}).t();
  TORCH_CHECK(
      at::isfinite(design).all().item<bool>() && at::isfinite(colours_S3).all().item<bool>(),
      "latents or pixels are not finite");
  const at::Tensor weights = std::get<0>(at::linalg_lstsq(design, colours_S3));
  const at::Tensor flat = weights.to(at::kFloat).contiguous();
  const float* values = flat.const_data_ptr<float>();
  return {static_cast<int>(channels), {values, values + flat.numel()}};
}

LatentMap FitLatentMap(const VaeDecoder& vae) {
  const int64_t channels = vae.config().latent_channels;
  const at::Tensor colours =
      at::randn({1, channels, kSquares, kSquares}, at::detail::createCPUGenerator(kSeed),
                at::TensorOptions(at::kFloat)) *
      kSpread;
  const at::Tensor latents = colours.repeat_interleave(kSquareSize, 2)
                                 .repeat_interleave(kSquareSize, 3)
                                 .to(vae.options().read.device);
  return FitLatentMap(latents[0], DecodeWhole(vae, latents, {})[0]);
}

Image DrawLatents(const LatentMap& map, const LatentTokens& latents, int max_edge_px) {
  Colours colours = ColoursOf(map, latents);
  const int longest = std::max(colours.width, colours.height);
  const int asked =
      std::min(max_edge_px > 0 ? max_edge_px : kDefaultPreviewEdgePx, kMaxPreviewScale * longest);
  const int width = OtherEdge(colours.width, longest, asked);
  const int height = OtherEdge(colours.height, longest, asked);
  if (width != colours.width || height != colours.height) {
    Colours turned = ResizedAndTurned(colours, width);
    colours = ResizedAndTurned(turned, height);
  }
  Image image{width, height, {}};
  image.pixels.reserve(colours.values.size());
  for (const float value : colours.values) image.pixels.push_back(ByteOf(value));
  return image;
}

}  // namespace patchflow
