// What a PNG file holds: its texts and its pixels.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace patchflow {

// The texts of a PNG file by their keywords: its tEXt chunks and its uncompressed iTXt chunks (PNG
// 1.2, 4.2.3); compressed ones are passed over. INVALID_ARGUMENT for what is no PNG file, is cut
// off, or has a chunk whose CRC is wrong.
absl::StatusOr<std::map<std::string, std::string>> PngTexts(std::string_view file);

struct RgbPixels {
  uint32_t width = 0;
  uint32_t height = 0;
  std::vector<uint8_t> bytes;  // Rows from the top, 3 bytes a pixel.
};

// Of a picture, if nothing is said: 768 MiB of RgbPixels.
inline constexpr uint64_t kMaxPixels = uint64_t{1} << 28;

// INVALID_ARGUMENT for what can't be decoded, is cut off, or has more pixels than `max_pixels`.
absl::StatusOr<RgbPixels> DecodePng(std::string_view file, uint64_t max_pixels = kMaxPixels);

}  // namespace patchflow
