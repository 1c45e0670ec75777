// What a WebP file holds.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "client/png_file.h"

namespace patchflow {

// Its XMP packet, a part of `file`; empty if it has none. INVALID_ARGUMENT if it is cut off.
absl::StatusOr<std::string_view> WebpXmp(std::string_view file);

// INVALID_ARGUMENT for what can't be decoded, moving pictures among it, and for more pixels than
// `max_pixels`.
absl::StatusOr<RgbPixels> DecodeWebp(std::string_view file, uint64_t max_pixels = kMaxPixels);

}  // namespace patchflow
