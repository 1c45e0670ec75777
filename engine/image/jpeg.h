// JPEG by libjpeg: baseline, chroma at half the resolution, optimal Huffman tables.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/image/image.h"
#include "engine/image/metadata.h"

namespace patchflow {

// `image`, `metadata` and `quality` (1 .. 100) have been checked. The metadata is an XMP segment
// (APP1). INVALID_ARGUMENT for more than 65500 px a side and for an XMP packet of more than 65504
// bytes.
absl::StatusOr<std::string> EncodeJpeg(const Image& image, const Metadata& metadata, int quality);

}  // namespace patchflow
