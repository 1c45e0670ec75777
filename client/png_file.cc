#include "client/png_file.h"

#include <png.h>
#include <zlib.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

using std::literals::string_view_literals::operator""sv;

constexpr auto kSignature = "\x89PNG\r\n\x1A\n"sv;
constexpr size_t kChunkOverhead = 12;  // Length, type, CRC.

uint32_t BigEndian(std::string_view bytes) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

// What is before the next NUL; both are taken off `rest`. Nothing if there is no NUL.
std::optional<std::string_view> TakeText(std::string_view& rest) {
  const size_t end = rest.find('\0');
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view text = rest.substr(0, end);
  rest.remove_prefix(end + 1);
  return text;
}

// Keyword, compression flag and method, language, translated keyword, text.
std::optional<std::pair<std::string, std::string>> InternationalText(std::string_view data) {
  const auto keyword = TakeText(data);
  if (!keyword || data.size() < 2 || data[0] != '\0') return std::nullopt;
  data.remove_prefix(2);
  if (!TakeText(data) || !TakeText(data)) return std::nullopt;
  return std::pair(std::string(*keyword), std::string(data));
}

std::optional<std::pair<std::string, std::string>> LatinText(std::string_view data) {
  const auto keyword = TakeText(data);
  if (!keyword) return std::nullopt;
  return std::pair(std::string(*keyword), std::string(data));
}

struct Chunk {
  std::string_view whole;
  std::string_view type;
  std::string_view data;

  bool undamaged() const {
    const auto crc =
        crc32_z(0, reinterpret_cast<const unsigned char*>(type.data()), type.size() + data.size());
    return static_cast<uint32_t>(crc) == BigEndian(whole.substr(whole.size() - 4));
  }
};

absl::Status TakeSignature(std::string_view& file) {
  if (file.substr(0, kSignature.size()) != kSignature) {
    return absl::InvalidArgumentError("it is no PNG file");
  }
  file.remove_prefix(kSignature.size());
  return absl::OkStatus();
}

absl::StatusOr<Chunk> TakeChunk(std::string_view& file) {
  if (file.size() < kChunkOverhead || file.size() - kChunkOverhead < BigEndian(file)) {
    return absl::InvalidArgumentError("it is cut off");
  }
  const size_t bytes = BigEndian(file);
  const Chunk chunk{file.substr(0, kChunkOverhead + bytes), file.substr(4, 4),
                    file.substr(8, bytes)};
  file.remove_prefix(chunk.whole.size());
  return chunk;
}

// Whether every chunk is as long as it says: libpng takes so much memory before it looks.
absl::Status CheckLengths(std::string_view file) {
  if (absl::Status status = TakeSignature(file); !status.ok()) return status;
  while (true) {
    const auto chunk = TakeChunk(file);
    if (!chunk.ok() || chunk->type == "IEND") return chunk.status();
  }
}

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> PngTexts(std::string_view file) {
  if (absl::Status status = TakeSignature(file); !status.ok()) return status;
  std::map<std::string, std::string> texts;
  while (true) {
    const auto chunk = TakeChunk(file);
    if (!chunk.ok()) return chunk.status();
    if (!chunk->undamaged()) {
      return absl::InvalidArgumentError("it is damaged: the CRC of a chunk is wrong");
    }
    if (chunk->type == "IEND") return texts;
    if (chunk->type == "iTXt" || chunk->type == "tEXt") {
      auto text = chunk->type == "iTXt" ? InternationalText(chunk->data) : LatinText(chunk->data);
      if (text) texts.insert(*std::move(text));
    }
  }
}

absl::StatusOr<RgbPixels> DecodePng(std::string_view file, uint64_t max_pixels) {
  if (absl::Status status = CheckLengths(file); !status.ok()) return status;
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  RgbPixels pixels;
  const auto failed = [&image] {
    const absl::Status status =
        absl::InvalidArgumentError(absl::StrCat("it can't be decoded: ", image.message));
    png_image_free(&image);
    return status;
  };
  if (png_image_begin_read_from_memory(&image, file.data(), file.size()) == 0) return failed();
  if (uint64_t{image.width} * image.height > max_pixels) {
    png_image_free(&image);
    return absl::InvalidArgumentError(
        absl::StrCat("it has ", image.width, "x", image.height, " pixels, more than ", max_pixels));
  }
  image.format = PNG_FORMAT_RGB;
  pixels.width = image.width;
  pixels.height = image.height;
  pixels.bytes.resize(PNG_IMAGE_SIZE(image));
  if (png_image_finish_read(&image, nullptr, pixels.bytes.data(), 0, nullptr) == 0) return failed();
  return pixels;
}

}  // namespace patchflow
