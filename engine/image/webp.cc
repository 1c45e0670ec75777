#include "engine/image/webp.h"

#include <webp/encode.h>
#include <webp/mux.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

struct FreePicture {
  void operator()(WebPPicture* picture) const { WebPPictureFree(picture); }
};
struct FreeWriter {
  void operator()(WebPMemoryWriter* writer) const { WebPMemoryWriterClear(writer); }
};
struct FreeMux {
  void operator()(WebPMux* mux) const { WebPMuxDelete(mux); }
};

absl::Status Failure(const char* call, int code) {
  return absl::InternalError(absl::StrCat("libwebp: ", call, " failed with code ", code));
}

absl::StatusOr<std::string> AddXmp(const WebPData& file, const std::string& packet) {
  const std::unique_ptr<WebPMux, FreeMux> mux(WebPMuxCreate(&file, /*copy_data=*/0));
  if (mux == nullptr) return Failure("WebPMuxCreate", WEBP_MUX_BAD_DATA);
  const WebPData xmp{reinterpret_cast<const uint8_t*>(packet.data()), packet.size()};
  if (const WebPMuxError error = WebPMuxSetChunk(mux.get(), "XMP ", &xmp, /*copy_data=*/0);
      error != WEBP_MUX_OK) {
    return Failure("WebPMuxSetChunk", error);
  }
  WebPData assembled;
  WebPDataInit(&assembled);
  const WebPMuxError error = WebPMuxAssemble(mux.get(), &assembled);
  std::string bytes;
  if (error == WEBP_MUX_OK) {
    bytes.assign(reinterpret_cast<const char*>(assembled.bytes), assembled.size);
  }
  WebPDataClear(&assembled);
  if (error != WEBP_MUX_OK) return Failure("WebPMuxAssemble", error);
  return bytes;
}

}  // namespace

absl::StatusOr<std::string> EncodeWebp(const Image& image, const Metadata& metadata, int quality,
                                       int threads) {
  if (image.width_px > WEBP_MAX_DIMENSION || image.height_px > WEBP_MAX_DIMENSION) {
    return absl::InvalidArgumentError(absl::StrCat("image: ", image.width_px, "x", image.height_px,
                                                   " px, WebP holds at most ", WEBP_MAX_DIMENSION,
                                                   " px a side"));
  }
  WebPConfig config;
  WebPPicture picture;
  if (WebPConfigInit(&config) == 0 || WebPPictureInit(&picture) == 0) {
    return Failure("WebPConfigInit", VP8_ENC_ERROR_INVALID_CONFIGURATION);
  }
  config.quality = static_cast<float>(quality);
  config.thread_level = threads > 1 ? 1 : 0;

  const std::unique_ptr<WebPPicture, FreePicture> picture_owner(&picture);
  picture.width = image.width_px;
  picture.height = image.height_px;
  if (WebPPictureImportRGB(&picture, image.pixels.data(), 3 * image.width_px) == 0) {
    return Failure("WebPPictureImportRGB", picture.error_code);
  }
  WebPMemoryWriter writer;
  WebPMemoryWriterInit(&writer);
  const std::unique_ptr<WebPMemoryWriter, FreeWriter> writer_owner(&writer);
  picture.writer = WebPMemoryWrite;
  picture.custom_ptr = &writer;
  if (WebPEncode(&config, &picture) == 0) return Failure("WebPEncode", picture.error_code);

  if (!metadata.empty()) return AddXmp(WebPData{writer.mem, writer.size}, XmpPacket(metadata));
  return std::string(reinterpret_cast<const char*>(writer.mem), writer.size);
}

}  // namespace patchflow
