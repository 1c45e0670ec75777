// What a JPEG file holds.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "client/png_file.h"

namespace patchflow {

// Its XMP packet, a part of `file`; empty if it has none. INVALID_ARGUMENT if it is cut off before
// its pixels.
absl::StatusOr<std::string_view> JpegXmp(std::string_view file);

// INVALID_ARGUMENT for what can't be decoded and for more pixels than `max_pixels`.
absl::StatusOr<RgbPixels> DecodeJpeg(std::string_view file, uint64_t max_pixels = kMaxPixels);

}  // namespace patchflow
