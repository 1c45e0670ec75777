#include "client/jpeg_file.h"

// libjpeg's header needs these before it.
#include <csetjmp>
#include <cstddef>
#include <cstdio>

#include <jpeglib.h>

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

using std::literals::string_view_literals::operator""sv;

constexpr auto kXmpName = "http://ns.adobe.com/xap/1.0/\0"sv;
constexpr auto kStart = "\xFF\xD8"sv;
constexpr uint8_t kApp1 = 0xE1;
constexpr uint8_t kStartOfScan = 0xDA;

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

// A warning, "premature end of file" say: the picture is not what was written.
void FailAtWarning(j_common_ptr info, int level) {
  if (level < 0) Fail(info);
}

// Plain values only between the jump's source and target. False: error.message tells why. With null
// `bytes` only the size is read.
bool Decompress(std::string_view file, ErrorJump& error, uint32_t& width, uint32_t& height,
                uint8_t* bytes) {
  jpeg_decompress_struct info;
  info.err = jpeg_std_error(&error.manager);
  error.manager.error_exit = Fail;
  error.manager.emit_message = FailAtWarning;
  if (setjmp(error.target) != 0) {
    jpeg_destroy_decompress(&info);
    return false;
  }
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(file.data()), file.size());
  jpeg_read_header(&info, TRUE);
  width = info.image_width;
  height = info.image_height;
  if (bytes != nullptr) {
    info.out_color_space = JCS_RGB;
    jpeg_start_decompress(&info);
    while (info.output_scanline < info.output_height) {
      JSAMPROW row = bytes + size_t{3} * width * info.output_scanline;
      jpeg_read_scanlines(&info, &row, 1);
    }
    jpeg_finish_decompress(&info);
  }
  jpeg_destroy_decompress(&info);
  return true;
}

}  // namespace

absl::StatusOr<std::string_view> JpegXmp(std::string_view file) {
  if (file.substr(0, kStart.size()) != kStart) {
    return absl::InvalidArgumentError("it is no JPEG file");
  }
  file.remove_prefix(kStart.size());
  while (file.size() >= 4 && file[0] == '\xFF') {
    const auto marker = static_cast<uint8_t>(file[1]);
    const size_t bytes = size_t{static_cast<uint8_t>(file[2])} << 8 | static_cast<uint8_t>(file[3]);
    if (bytes < 2 || file.size() - 2 < bytes) break;
    const std::string_view data = file.substr(4, bytes - 2);
    if (marker == kApp1 && data.substr(0, kXmpName.size()) == kXmpName) {
      return data.substr(kXmpName.size());
    }
    if (marker == kStartOfScan) return std::string_view();
    file.remove_prefix(2 + bytes);
  }
  return absl::InvalidArgumentError("it is cut off");
}

absl::StatusOr<RgbPixels> DecodeJpeg(std::string_view file, uint64_t max_pixels) {
  ErrorJump error{};
  RgbPixels pixels;
  const auto failed = [&error] {
    return absl::InvalidArgumentError(absl::StrCat("it can't be decoded: ", error.message));
  };
  if (!Decompress(file, error, pixels.width, pixels.height, nullptr)) return failed();
  if (uint64_t{pixels.width} * pixels.height > max_pixels) {
    return absl::InvalidArgumentError(absl::StrCat("it has ", pixels.width, "x", pixels.height,
                                                   " pixels, more than ", max_pixels));
  }
  pixels.bytes.resize(size_t{3} * pixels.width * pixels.height);
  if (!Decompress(file, error, pixels.width, pixels.height, pixels.bytes.data())) return failed();
  return pixels;
}

}  // namespace patchflow
