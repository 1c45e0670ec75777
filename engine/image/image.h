// Pixels, and the formats that they leave in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace patchflow {

// 8-bit RGB, rows from the top, no padding: pixels.size() == 3 * width_px * height_px.
struct Image {
  int width_px = 0;
  int height_px = 0;
  std::vector<uint8_t> pixels;
};

enum class ImageFormat { kPng, kJpeg, kWebp, kRawRgb8 };

struct EncodeOptions {
  ImageFormat format = ImageFormat::kPng;
  int quality = 0;  // 1 .. 100 for JPEG and WebP; 0 takes the default, 90. PNG and raw ignore it.
  // Key and value, UTF-8: PNG iTXt chunks, one XMP packet in JPEG and WebP, nothing in raw. Limits,
  // and a key that is XMP in PNG too: metadata.h.
  std::vector<std::pair<std::string, std::string>> metadata = {};
  int threads = 2;
};

// Bytes of a complete file (raw: the pixels); the same for any number of threads. JPEG and WebP
// halve the chroma's resolution. INVALID_ARGUMENT for pixels that are not of the size said, sizes
// that the format can't hold (WebP: 16383 px, JPEG: 65500 px a side), quality, threads or metadata
// out of their limits, and metadata too long for JPEG (about 64 KiB). INTERNAL if a library fails.
// Thread-safe, pure; throws std::bad_alloc.
absl::StatusOr<std::string> EncodeImage(const Image& image, const EncodeOptions& options);

}  // namespace patchflow
