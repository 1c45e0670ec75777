#include "client/picture_file.h"

#include "client/jpeg_file.h"
#include "client/webp_file.h"
#include "client/xmp.h"

namespace patchflow {
namespace {

constexpr char kPacketOfPng[] = "XML:com.adobe.xmp";  // Its keyword.

}  // namespace

absl::StatusOr<v1::ImageFormat> FormatOfFile(std::string_view file) {
  if (file.substr(0, 4) == "\x89PNG") return v1::IMAGE_FORMAT_PNG;
  if (file.substr(0, 3) == "\xFF\xD8\xFF") return v1::IMAGE_FORMAT_JPEG;
  if (file.substr(0, 4) == "RIFF" && file.size() >= 12 && file.substr(8, 4) == "WEBP") {
    return v1::IMAGE_FORMAT_WEBP;
  }
  return absl::InvalidArgumentError("it is no PNG, JPEG or WebP file");
}

absl::StatusOr<std::map<std::string, std::string>> PictureTexts(std::string_view file) {
  const auto format = FormatOfFile(file);
  if (!format.ok()) return format.status();
  if (*format == v1::IMAGE_FORMAT_PNG) {
    auto texts = PngTexts(file);
    if (!texts.ok()) return texts.status();
    if (const auto packet = texts->extract(kPacketOfPng); !packet.empty()) {
      texts->merge(XmpTexts(packet.mapped()));
    }
    return texts;
  }
  const auto packet = *format == v1::IMAGE_FORMAT_JPEG ? JpegXmp(file) : WebpXmp(file);
  if (!packet.ok()) return packet.status();
  return XmpTexts(*packet);
}

absl::StatusOr<RgbPixels> DecodePicture(std::string_view file, uint64_t max_pixels) {
  const auto format = FormatOfFile(file);
  if (!format.ok()) return format.status();
  if (*format == v1::IMAGE_FORMAT_PNG) return DecodePng(file, max_pixels);
  return *format == v1::IMAGE_FORMAT_JPEG ? DecodeJpeg(file, max_pixels)
                                          : DecodeWebp(file, max_pixels);
}

}  // namespace patchflow
