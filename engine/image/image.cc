#include "engine/image/image.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/image/jpeg.h"
#include "engine/image/metadata.h"
#include "engine/image/png.h"
#include "engine/image/webp.h"

namespace patchflow {
namespace {

constexpr int kDefaultQuality = 90;

absl::Status Check(const Image& image, const EncodeOptions& options) {
  if (image.width_px < 1 || image.height_px < 1) {
    return absl::InvalidArgumentError(absl::StrCat("image: ", image.width_px, "x", image.height_px,
                                                   " px, at least 1 px a side is needed"));
  }
  const size_t bytes =
      size_t{3} * static_cast<size_t>(image.width_px) * static_cast<size_t>(image.height_px);
  if (image.pixels.size() != bytes) {
    return absl::InvalidArgumentError(absl::StrCat("image: ", image.pixels.size(),
                                                   " bytes of pixels, ", image.width_px, "x",
                                                   image.height_px, " px have ", bytes));
  }
  if (options.threads < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads: ", options.threads, ", at least 1 is needed"));
  }
  const bool lossy = options.format == ImageFormat::kJpeg || options.format == ImageFormat::kWebp;
  if (lossy && (options.quality < 0 || options.quality > 100)) {
    return absl::InvalidArgumentError(
        absl::StrCat("quality: ", options.quality, " is not in 1 .. 100, nor 0 for the default"));
  }
  return CheckMetadata(options.metadata);
}

}  // namespace

absl::StatusOr<std::string> EncodeImage(const Image& image, const EncodeOptions& options) {
  if (absl::Status status = Check(image, options); !status.ok()) return status;
  const int quality = options.quality == 0 ? kDefaultQuality : options.quality;
  switch (options.format) {
    case ImageFormat::kPng:
      return EncodePng(image, options.metadata, options.threads);
    case ImageFormat::kJpeg:
      return EncodeJpeg(image, options.metadata, quality);
    case ImageFormat::kWebp:
      return EncodeWebp(image, options.metadata, quality, options.threads);
    case ImageFormat::kRawRgb8:
      return std::string(image.pixels.begin(), image.pixels.end());
  }
  return absl::InvalidArgumentError(
      absl::StrCat("format: ", static_cast<int>(options.format), " is not a format"));
}

}  // namespace patchflow
