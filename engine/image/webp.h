// WebP by libwebp: lossy.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/image/image.h"
#include "engine/image/metadata.h"

namespace patchflow {

// `image`, `metadata` and `quality` (1 .. 100) have been checked. The metadata is an XMP chunk.
// With more than one thread libwebp takes two. INVALID_ARGUMENT for more than 16383 px a side.
absl::StatusOr<std::string> EncodeWebp(const Image& image, const Metadata& metadata, int quality,
                                       int threads);

}  // namespace patchflow
