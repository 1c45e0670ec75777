#include "engine/image/png.h"

#include <libdeflate.h>
#include <zlib.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/image/deflate_strip.h"
#include "engine/image/png_filter.h"

namespace patchflow {
namespace {

constexpr int kDeflateLevel = 5;
constexpr size_t kStripBytes =
    size_t{128} << 10;  // Of filtered rows: a few dozen strips in an image of 1024 px.
constexpr std::string_view kSignature = "\x89PNG\r\n\x1A\n";
constexpr std::string_view kZlibHeader = "\x78\x5E";  // RFC 1950: deflate, 32 KiB window, fast.
constexpr std::string_view kXmpKeyword = "XML:com.adobe.xmp";  // XMP Specification, part 3, PNG.
constexpr size_t kMaxChunkBytes = std::numeric_limits<int32_t>::max();

void AppendBigEndian(uint32_t value, std::string& out) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift));
}

void AppendChunk(std::string_view type, std::string_view data, std::string& png) {
  AppendBigEndian(static_cast<uint32_t>(data.size()), png);
  png += type;
  png += data;
  const uint32_t crc = libdeflate_crc32(0, type.data(), type.size());
  AppendBigEndian(libdeflate_crc32(crc, data.data(), data.size()), png);
}

std::string Header(const Image& image) {
  std::string header;
  AppendBigEndian(static_cast<uint32_t>(image.width_px), header);
  AppendBigEndian(static_cast<uint32_t>(image.height_px), header);
  constexpr char kRgb8[] = {8, 2, 0, 0,
                            0};  // Bit depth, colour type, compression, filters, no interlace.
  return header.append(kRgb8, sizeof kRgb8);
}

std::string InternationalText(std::string_view key, std::string_view value) {
  constexpr char kPlain[] = {
      0, 0, 0, 0, 0};  // End of key, two of "not compressed", no language, no translated key.
  return std::string(key).append(kPlain, sizeof kPlain).append(value);
}

struct Strip {
  absl::StatusOr<std::string> deflated;
  uint32_t adler = 0;
  size_t filtered_bytes = 0;
};

// Filters and deflates runs of rows, each independently of the others.
class StripEncoder {
 public:
  explicit StripEncoder(const Image& image)
      : image_(image),
        row_bytes_(3 * static_cast<size_t>(image.width_px)),
        strip_rows_(std::max<size_t>(1, kStripBytes / (1 + row_bytes_))),
        strips_((static_cast<size_t>(image.height_px) + strip_rows_ - 1) / strip_rows_) {}

  std::vector<Strip> Encode(int threads) {
    std::exception_ptr failure;
    std::mutex mutex;
    const auto help = [&] {
      try {
        Work();
      } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
      }
    };
    std::vector<std::jthread> helpers;
    const size_t num_helpers = std::min(static_cast<size_t>(threads), strips_.size()) - 1;
    for (size_t i = 0; i < num_helpers; ++i) helpers.emplace_back(help);
    help();
    helpers.clear();
    if (failure) std::rethrow_exception(failure);
    return std::move(strips_);
  }

 private:
  void Work() {
    StripDeflater deflater(kDeflateLevel);
    RowFilter filter(row_bytes_);
    std::vector<uint8_t> filtered;
    for (size_t i = next_++; i < strips_.size(); i = next_++) {
      FilterRows(i * strip_rows_, filter, filtered);
      const StripEnd end = i + 1 == strips_.size() ? StripEnd::kFinal : StripEnd::kOpen;
      strips_[i].deflated = deflater.Deflate(filtered, end);
      strips_[i].adler = libdeflate_adler32(1, filtered.data(), filtered.size());
      strips_[i].filtered_bytes = filtered.size();
    }
  }

  void FilterRows(size_t first, RowFilter& filter, std::vector<uint8_t>& filtered) const {
    const size_t rows = std::min(strip_rows_, static_cast<size_t>(image_.height_px) - first);
    filtered.resize(rows * (1 + row_bytes_));
    for (size_t i = 0; i < rows; ++i) {
      const uint8_t* row = image_.pixels.data() + (first + i) * row_bytes_;
      filter.Filter(row, first + i == 0 ? nullptr : row - row_bytes_,
                    &filtered[i * (1 + row_bytes_)]);
    }
  }

  const Image& image_;
  const size_t row_bytes_;
  const size_t strip_rows_;
  std::vector<Strip> strips_;
  std::atomic<size_t> next_ = 0;
};

}  // namespace

absl::StatusOr<std::string> EncodePng(const Image& image, const Metadata& metadata, int threads) {
  std::vector<Strip> strips = StripEncoder(image).Encode(threads);

  std::string png(kSignature);
  AppendChunk("IHDR", Header(image), png);
  for (const auto& [key, value] : metadata) {
    const std::string text = key == kDigitalSourceType
                                 ? InternationalText(kXmpKeyword, XmpPacket({{key, value}}))
                                 : InternationalText(key, value);
    if (text.size() > kMaxChunkBytes) {
      return absl::InvalidArgumentError(absl::StrCat("metadata: \"", key, "\" has ", value.size(),
                                                     " bytes, a PNG chunk holds at most ",
                                                     kMaxChunkBytes));
    }
    AppendChunk("iTXt", text, png);
  }
  uint32_t adler = 1;
  for (size_t i = 0; i < strips.size(); ++i) {
    if (!strips[i].deflated.ok()) return strips[i].deflated.status();
    std::string data = i == 0 ? std::string(kZlibHeader) : std::string();
    data += *strips[i].deflated;
    adler = static_cast<uint32_t>(
        adler32_combine(adler, strips[i].adler, static_cast<z_off_t>(strips[i].filtered_bytes)));
    if (i + 1 == strips.size()) AppendBigEndian(adler, data);
    AppendChunk("IDAT", data, png);
    strips[i].deflated = std::string();
  }
  AppendChunk("IEND", "", png);
  return png;
}

}  // namespace patchflow
