// What an image file of any format holds: its texts and its pixels.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/png_file.h"
#include "patchflow/v1/image_generation.pb.h"

namespace patchflow {

// By its first bytes: PNG, JPEG or WEBP; INVALID_ARGUMENT for anything else.
absl::StatusOr<v1::ImageFormat> FormatOfFile(std::string_view file);

// What it tells of how it was made: PngTexts(), and of all formats the properties of its XMP packet
// (XmpTexts()), which JPEG has in an APP1 segment (ISO 16684-3, 1.1.3) and WebP in a chunk "XMP ".
// The packet itself is left out. INVALID_ARGUMENT for what is no image file or is cut off before
// its pixels.
absl::StatusOr<std::map<std::string, std::string>> PictureTexts(std::string_view file);

// INVALID_ARGUMENT for what can't be decoded and for more pixels than `max_pixels`.
absl::StatusOr<RgbPixels> DecodePicture(std::string_view file, uint64_t max_pixels = kMaxPixels);

}  // namespace patchflow
