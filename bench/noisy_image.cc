#include "bench/noisy_image.h"

#include <algorithm>
#include <cstddef>

namespace patchflow {
namespace {

// Source: S. Vigna, SplitMix64.
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15U);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }

 private:
  uint64_t state_;
};

// Nearly normal, by the sum of eight bytes, whose standard deviation is 209.
int Noise(SplitMix64& random) {
  const uint64_t bytes = random.Next();
  int sum = 0;
  for (int i = 0; i < 8; ++i) sum += static_cast<int>((bytes >> (8 * i)) & 0xFF);
  constexpr int kMean = 8 * 255 / 2;
  return (sum - kMean) / 13;
}

}  // namespace

Image NoisyImage(int width_px, int height_px, uint64_t seed) {
  SplitMix64 random(seed);
  Image image{width_px, height_px, {}};
  image.pixels.reserve(size_t{3} * static_cast<size_t>(width_px) * static_cast<size_t>(height_px));
  for (int y = 0; y < height_px; ++y) {
    for (int x = 0; x < width_px; ++x) {
      const int right = 255 * x / width_px;
      const int down = 255 * y / height_px;
      for (int level : {right, down, (right + down) / 2}) {
        image.pixels.push_back(static_cast<uint8_t>(std::clamp(level + Noise(random), 0, 255)));
      }
    }
  }
  return image;
}

}  // namespace patchflow
