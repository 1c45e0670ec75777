// PNG: 8-bit RGB, rows filtered and deflated in strips on several threads.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/image/image.h"
#include "engine/image/metadata.h"

namespace patchflow {

// `image` and `metadata` have been checked. Each pair is an iTXt chunk, not compressed;
// kDigitalSourceType is one of XMP. The file
// does not depend on `threads`. Source: PNG (W3C, third edition).
absl::StatusOr<std::string> EncodePng(const Image& image, const Metadata& metadata, int threads);

}  // namespace patchflow
