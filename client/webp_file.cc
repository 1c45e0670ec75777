#include "client/webp_file.h"

#include <webp/decode.h>

#include <algorithm>

#include <cstddef>
#include <cstdint>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

constexpr size_t kFileHeader = 12;  // "RIFF", size, "WEBP".
constexpr size_t kChunkHeader = 8;  // Name, size.

uint32_t LittleEndian(std::string_view bytes) {
  uint32_t value = 0;
  for (size_t i = 4; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

}  // namespace

absl::StatusOr<std::string_view> WebpXmp(std::string_view file) {
  if (file.size() < kFileHeader || file.substr(0, 4) != "RIFF" || file.substr(8, 4) != "WEBP") {
    return absl::InvalidArgumentError("it is no WebP file");
  }
  file.remove_prefix(kFileHeader);
  while (!file.empty()) {
    if (file.size() < kChunkHeader || file.size() - kChunkHeader < LittleEndian(file.substr(4))) {
      return absl::InvalidArgumentError("it is cut off");
    }
    const size_t bytes = LittleEndian(file.substr(4));
    if (file.substr(0, 4) == "XMP ") return file.substr(kChunkHeader, bytes);
    file.remove_prefix(std::min(file.size(), kChunkHeader + bytes + bytes % 2));
  }
  return std::string_view();
}

absl::StatusOr<RgbPixels> DecodeWebp(std::string_view file, uint64_t max_pixels) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(file.data());
  WebPBitstreamFeatures features;
  RgbPixels pixels;
  if (WebPGetFeatures(bytes, file.size(), &features) == VP8_STATUS_OK &&
      features.has_animation == 0) {
    pixels.width = static_cast<uint32_t>(features.width);
    pixels.height = static_cast<uint32_t>(features.height);
    if (uint64_t{pixels.width} * pixels.height > max_pixels) {
      return absl::InvalidArgumentError(absl::StrCat("it has ", pixels.width, "x", pixels.height,
                                                     " pixels, more than ", max_pixels));
    }
    pixels.bytes.resize(size_t{3} * pixels.width * pixels.height);
    if (WebPDecodeRGBInto(bytes, file.size(), pixels.bytes.data(), pixels.bytes.size(),
                          3 * features.width) != nullptr) {
      return pixels;
    }
  }
  return absl::InvalidArgumentError("it can't be decoded");
}

}  // namespace patchflow
