// A picture that `patchflow replay` is given: PNG, JPEG or WebP, what it tells and its pixels.
#include <zlib.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/time/time.h"
#include "client/picture_file.h"
#include "client/replay.h"
#include "client/xmp.h"

namespace patchflow {
namespace {

// Those of decoders that others wrote take long, and are not compiled for this.
constexpr uint64_t kPixels = 1 << 12;

size_t BytesOf(const std::map<std::string, std::string>& texts) {
  size_t bytes = 0;
  for (const auto& [key, value] : texts) {
    bytes += key.size() + value.size();
  }
  return bytes;
}

void Check(std::string_view file) {
  const auto texts = PictureTexts(file);
  if (texts.ok()) {
    const auto request = RequestOfTexts(*texts, *FormatOfFile(file), absl::Seconds(1));
    // They are parts of it, whose references are longer than what they stand for.
    if (BytesOf(*texts) > file.size() || (request.ok() && texts->count("prompt") == 0)) {
      std::abort();
    }
  }
  const auto pixels = DecodePicture(file, kPixels);
  if (!pixels.ok()) {
    return;
  }
  const uint64_t number = uint64_t{pixels->width} * pixels->height;
  if (number == 0 || number > kPixels || pixels->bytes.size() != 3 * number) {
    std::abort();
  }
  if (texts.ok()) {
    const auto same = CompareImages(file, file);
    if (!same.ok() || RenderComparison(*same) != "identical" || !same->same_picture()) {
      std::abort();
    }
  }
}

void Write(uint32_t value, char* to) {
  for (int i = 0; i < 4; ++i) {
    to[i] = static_cast<char>(value >> (24 - 8 * i));
  }
}

// Each chunk of a PNG file with the length that there is room for and the CRC that it must have, or
// what is in them would never be read.
std::string Repaired(std::string png) {
  for (size_t at = 8; at + 12 <= png.size();) {
    const auto* length = reinterpret_cast<const unsigned char*>(png.data() + at);
    const size_t told = size_t{length[0]} << 24 | length[1] << 16 | length[2] << 8 | length[3];
    const size_t bytes = std::min(told, png.size() - at - 12);
    Write(static_cast<uint32_t>(bytes), png.data() + at);
    const auto crc = crc32_z(0, length + 4, 4 + bytes);
    Write(static_cast<uint32_t>(crc), png.data() + at + 8 + bytes);
    at += 12 + bytes;
  }
  return png;
}

}  // namespace
}  // namespace patchflow

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  patchflow::Check(file);
  if (file.substr(0, 4) == "\x89PNG") {
    patchflow::Check(patchflow::Repaired(std::string(file)));
  }
  if (patchflow::BytesOf(patchflow::XmpTexts(file)) > size) {
    std::abort();
  }
  return 0;
}
