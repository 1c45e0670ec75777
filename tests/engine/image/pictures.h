// Images to encode, and how far two of them are apart.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "engine/image/image.h"

namespace patchflow {

enum class Picture { kFlat, kGradient, kNoise, kStripes };

inline Image MakePicture(Picture picture, int width_px, int height_px) {
  std::mt19937 random(static_cast<unsigned>(width_px * 7919 + height_px));
  Image image{width_px, height_px, {}};
  for (int y = 0; y < height_px; ++y) {
    for (int x = 0; x < width_px; ++x) {
      for (int c = 0; c < 3; ++c) {
        int level = 0;
        switch (picture) {
          case Picture::kFlat:
            level = 40 + 70 * c;
            break;
          case Picture::kGradient:
            level = 255 * (c == 0 ? x : y) / (c == 0 ? width_px : height_px);
            break;
          case Picture::kNoise:
            level = static_cast<int>(random() & 255);
            break;
          case Picture::kStripes:
            level = (x / 3 + y / 5) % 2 == 0 ? 255 : 20 * c;
            break;
        }
        image.pixels.push_back(static_cast<uint8_t>(level));
      }
    }
  }
  return image;
}

inline double Psnr(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  if (a.size() != b.size()) return 0;
  double squares = 0;
  for (size_t i = 0; i < a.size(); ++i) squares += std::pow(double{1} * a[i] - b[i], 2);
  if (squares == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(255.0 * 255.0 * static_cast<double>(a.size()) / squares);
}

}  // namespace patchflow
