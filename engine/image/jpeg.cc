#include "engine/image/jpeg.h"

#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include <jpeglib.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kXmpName = "http://ns.adobe.com/xap/1.0/\0"sv;
constexpr size_t kMaxSegmentBytes = 65533;
constexpr int kXmpMarker = JPEG_APP0 + 1;

// What libjpeg calls back for errors: ends the call by a jump, as libjpeg is C.
struct ErrorJump {
  jpeg_error_mgr manager;
  std::jmp_buf target;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void Fail(j_common_ptr info) {
  auto* error = reinterpret_cast<ErrorJump*>(info->err);
  error->manager.format_message(info, error->message);
  std::longjmp(error->target, 1);
}
void Ignore(j_common_ptr) {}

// Plain values only between the jump's source and target. False: error.message tells why.
bool Compress(const Image& image, std::string_view xmp_segment, int quality, ErrorJump& error,
              unsigned char** bytes, unsigned long* size) {
  jpeg_compress_struct info;
  info.err = jpeg_std_error(&error.manager);
  error.manager.error_exit = Fail;
  error.manager.output_message = Ignore;
  if (setjmp(error.target) != 0) {
    jpeg_destroy_compress(&info);
    return false;
  }
  jpeg_create_compress(&info);
  jpeg_mem_dest(&info, bytes, size);
  info.image_width = static_cast<JDIMENSION>(image.width_px);
  info.image_height = static_cast<JDIMENSION>(image.height_px);
  info.input_components = 3;
  info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, quality, TRUE);
  info.optimize_coding = TRUE;
  jpeg_start_compress(&info, TRUE);
  if (!xmp_segment.empty()) {
    jpeg_write_marker(&info, kXmpMarker, reinterpret_cast<const JOCTET*>(xmp_segment.data()),
                      static_cast<unsigned>(xmp_segment.size()));
  }
  const size_t row_bytes = 3 * static_cast<size_t>(image.width_px);
  while (info.next_scanline < info.image_height) {
    // libjpeg only reads from the row.
    JSAMPROW row = const_cast<JSAMPROW>(image.pixels.data() + info.next_scanline * row_bytes);
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  return true;
}

}  // namespace

absl::StatusOr<std::string> EncodeJpeg(const Image& image, const Metadata& metadata, int quality) {
  if (image.width_px > JPEG_MAX_DIMENSION || image.height_px > JPEG_MAX_DIMENSION) {
    return absl::InvalidArgumentError(absl::StrCat("image: ", image.width_px, "x", image.height_px,
                                                   " px, JPEG holds at most ", JPEG_MAX_DIMENSION,
                                                   " px a side"));
  }
  std::string segment;
  if (!metadata.empty()) segment = std::string(kXmpName) + XmpPacket(metadata);
  if (segment.size() > kMaxSegmentBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("metadata: an XMP packet of ", segment.size() - kXmpName.size(),
                     " bytes, JPEG holds at most ", kMaxSegmentBytes - kXmpName.size()));
  }
  ErrorJump error{};
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  const bool done = Compress(image, segment, quality, error, &bytes, &size);
  std::string jpeg;
  if (done) jpeg.assign(reinterpret_cast<const char*>(bytes), size);
  std::free(bytes);
  if (!done) return absl::InternalError(absl::StrCat("libjpeg: ", error.message));
  return jpeg;
}

}  // namespace patchflow
