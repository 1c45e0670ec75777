#include "engine/image/png.h"

#include <png.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/noisy_image.h"
#include "tests/engine/image/pictures.h"

namespace patchflow {
namespace {

struct Decoded {
  Image image;
  std::map<std::string, std::string> text;
};

// By libpng, with its warnings as errors.
class Decoder {
 public:
  explicit Decoder(const std::string& png) : rest_(png) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, nullptr, Throw, Throw);
    info_ = png_create_info_struct(png_);
    png_set_read_fn(png_, this, Read);
  }
  ~Decoder() { png_destroy_read_struct(&png_, &info_, nullptr); }

  Decoded Decode() {
    png_read_info(png_, info_);
    if (png_get_bit_depth(png_, info_) != 8 ||
        png_get_color_type(png_, info_) != PNG_COLOR_TYPE_RGB) {
      throw std::runtime_error("not RGB8");
    }
    Decoded decoded;
    decoded.image.width_px = static_cast<int>(png_get_image_width(png_, info_));
    decoded.image.height_px = static_cast<int>(png_get_image_height(png_, info_));
    const size_t row_bytes = png_get_rowbytes(png_, info_);
    decoded.image.pixels.resize(row_bytes * static_cast<size_t>(decoded.image.height_px));
    for (int y = 0; y < decoded.image.height_px; ++y) {
      png_read_row(png_, &decoded.image.pixels[static_cast<size_t>(y) * row_bytes], nullptr);
    }
    png_read_end(png_, info_);
    png_textp text = nullptr;
    int num_text = 0;
    png_get_text(png_, info_, &text, &num_text);
    for (int i = 0; i < num_text; ++i) {
      if (text[i].compression != PNG_ITXT_COMPRESSION_NONE) {
        throw std::runtime_error("not plain iTXt");
      }
      decoded.text[text[i].key] = std::string(text[i].text, text[i].itxt_length);
    }
    if (!rest_.empty()) throw std::runtime_error("bytes after IEND");
    return decoded;
  }

 private:
  [[noreturn]] static void Throw(png_structp, const char* message) {
    throw std::runtime_error(message);
  }
  static void Read(png_structp png, png_bytep out, size_t bytes) {
    auto* self = static_cast<Decoder*>(png_get_io_ptr(png));
    if (bytes > self->rest_.size()) throw std::runtime_error("truncated");
    std::memcpy(out, self->rest_.data(), bytes);
    self->rest_.remove_prefix(bytes);
  }

  std::string_view rest_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
};

void ExpectRoundTrip(const Image& image) {
  SCOPED_TRACE(testing::Message() << image.width_px << "x" << image.height_px);
  const absl::StatusOr<std::string> png = EncodePng(image, {}, 2);
  ASSERT_TRUE(png.ok()) << png.status();
  Decoded decoded;
  ASSERT_NO_THROW(decoded = Decoder(*png).Decode());
  EXPECT_EQ(decoded.image.width_px, image.width_px);
  EXPECT_EQ(decoded.image.height_px, image.height_px);
  EXPECT_EQ(decoded.image.pixels, image.pixels);
}

TEST(PngTest, LibpngReadsBackEverySize) {
  for (Picture picture : {Picture::kFlat, Picture::kGradient, Picture::kNoise, Picture::kStripes}) {
    for (const auto& [width_px, height_px] : std::vector<std::pair<int, int>>{{1, 1},
                                                                              {1, 2},
                                                                              {2, 1},
                                                                              {3, 3},
                                                                              {7, 5},
                                                                              {1, 500},
                                                                              {500, 1},
                                                                              {16, 16},
                                                                              {255, 257},
                                                                              {256, 256},
                                                                              {640, 368}}) {
      ExpectRoundTrip(MakePicture(picture, width_px, height_px));
    }
  }
}

TEST(PngTest, LibpngReadsBackManyStrips) {
  ExpectRoundTrip(NoisyImage(1024, 1024, 1));
  ExpectRoundTrip(MakePicture(Picture::kGradient, 2048, 1024));
  ExpectRoundTrip(MakePicture(Picture::kStripes, 60000, 3));  // A row of more than a strip.
}

TEST(PngTest, AnyNumberOfThreadsGivesTheSameBytes) {
  for (Picture picture : {Picture::kGradient, Picture::kNoise, Picture::kStripes}) {
    const Image image = MakePicture(picture, 700, 501);
    const std::string one = EncodePng(image, {}, 1).value();
    for (int threads : {2, 3, 4, 7, 64}) {
      EXPECT_EQ(EncodePng(image, {}, threads).value(), one) << threads;
    }
  }
}

TEST(PngTest, KeepsMetadata) {
  const Metadata metadata = {{"prompt", "a \xF0\x9F\x8C\xB7 in\nParis, \xC3\xA9t\xC3\xA9"},
                             {"negative_prompt", ""},
                             {"seed", "9007199254740991"},
                             {"long", std::string(1 << 20, 'x')}};
  const Image image = MakePicture(Picture::kGradient, 33, 20);
  const absl::StatusOr<std::string> png = EncodePng(image, metadata, 2);
  ASSERT_TRUE(png.ok());
  Decoded decoded;
  ASSERT_NO_THROW(decoded = Decoder(*png).Decode());
  EXPECT_EQ(decoded.text, (std::map<std::string, std::string>(metadata.begin(), metadata.end())));
  EXPECT_EQ(decoded.image.pixels, image.pixels);
}

TEST(PngTest, TellsTheSourceInXmp) {
  const std::pair<std::string, std::string> source(kDigitalSourceType, "http://a/b");
  const Image image = MakePicture(Picture::kFlat, 8, 8);
  Decoded decoded;
  ASSERT_NO_THROW(decoded = Decoder(EncodePng(image, {source, {"seed", "1"}}, 1).value()).Decode());
  EXPECT_EQ(decoded.text, (std::map<std::string, std::string>{
                              {"XML:com.adobe.xmp", XmpPacket({source})}, {"seed", "1"}}));
}

TEST(PngTest, IsNotLargerThanLibpngs) {
  for (Picture picture : {Picture::kFlat, Picture::kGradient, Picture::kNoise, Picture::kStripes}) {
    const Image image = MakePicture(picture, 512, 512);
    png_image description{};
    description.version = PNG_IMAGE_VERSION;
    description.width = 512;
    description.height = 512;
    description.format = PNG_FORMAT_RGB;
    png_alloc_size_t libpng_bytes = 0;
    ASSERT_TRUE(png_image_write_to_memory(&description, nullptr, &libpng_bytes, 0,
                                          image.pixels.data(), 0, nullptr));
    const size_t bytes = EncodePng(image, {}, 2).value().size();
    EXPECT_LE(static_cast<double>(bytes), 1.01 * static_cast<double>(libpng_bytes) + 512)
        << static_cast<int>(picture);
  }
}

}  // namespace
}  // namespace patchflow
