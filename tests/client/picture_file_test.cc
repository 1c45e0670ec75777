#include "client/picture_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "client/jpeg_file.h"
#include "client/webp_file.h"
#include "engine/image/jpeg.h"
#include "engine/image/png.h"
#include "engine/image/webp.h"

namespace patchflow {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;

const Metadata& Told() {
  static const Metadata told = {{"DigitalSourceType", "http://a/b"},
                                {"prompt", "a <r\u00e9d> star"}};
  return told;
}

// A soft slope, which lossy formats keep.
Image Slope() {
  Image image{24, 16, {}};
  for (int i = 0; i < 24 * 16; ++i) {
    for (const int value : {i % 24 * 8, i / 24 * 12, 90}) {
      image.pixels.push_back(static_cast<uint8_t>(value));
    }
  }
  return image;
}

struct Format {
  v1::ImageFormat format;
  std::string file;        // Of Slope(), with Told().
  std::string file_alone;  // Without.
  int error;               // Of a byte of a pixel, at most.
};

std::vector<Format> Formats() {
  const Image image = Slope();
  return {{v1::IMAGE_FORMAT_PNG, *EncodePng(image, Told(), 1), *EncodePng(image, {}, 1), 0},
          {v1::IMAGE_FORMAT_JPEG, *EncodeJpeg(image, Told(), 95), *EncodeJpeg(image, {}, 95), 24},
          {v1::IMAGE_FORMAT_WEBP, *EncodeWebp(image, Told(), 95, 1), *EncodeWebp(image, {}, 95, 1),
           24}};
}

TEST(PictureFileTest, EveryFormatIsKnownByItsFirstBytes) {
  for (const Format& each : Formats()) {
    ASSERT_TRUE(FormatOfFile(each.file).ok());
    EXPECT_EQ(*FormatOfFile(each.file), each.format);
  }
  for (const std::string file : {"", "\x89PN", "RIFF....WAVE", "GIF89a"}) {
    EXPECT_THAT(FormatOfFile(file).status().message(), HasSubstr("no PNG, JPEG or WebP"));
    EXPECT_FALSE(PictureTexts(file).ok());
    EXPECT_FALSE(DecodePicture(file).ok());
  }
}

TEST(PictureFileTest, EveryFormatTellsTheSameTexts) {
  for (const Format& each : Formats()) {
    const auto texts = PictureTexts(each.file);
    ASSERT_TRUE(texts.ok()) << texts.status();
    EXPECT_THAT(*texts, Contains(Pair("prompt", "a <r\u00e9d> star")));
    EXPECT_THAT(*texts, Contains(Pair("DigitalSourceType", "http://a/b")));
    EXPECT_THAT(*texts, SizeIs(2)) << "the packet itself is none";
    EXPECT_THAT(*PictureTexts(each.file_alone), IsEmpty());
  }
}

TEST(PictureFileTest, EveryFormatGivesItsPixels) {
  const Image image = Slope();
  for (const Format& each : Formats()) {
    const auto pixels = DecodePicture(each.file);
    ASSERT_TRUE(pixels.ok()) << pixels.status();
    EXPECT_EQ(pixels->width, 24U);
    EXPECT_EQ(pixels->height, 16U);
    ASSERT_EQ(pixels->bytes.size(), image.pixels.size());
    int largest = 0;
    for (size_t i = 0; i < image.pixels.size(); ++i) {
      largest = std::max(largest, std::abs(int{pixels->bytes[i]} - int{image.pixels[i]}));
    }
    EXPECT_LE(largest, each.error);
  }
}

TEST(PictureFileTest, MorePixelsThanAskedForAreRefused) {
  for (const Format& each : Formats()) {
    EXPECT_TRUE(DecodePicture(each.file, 24 * 16).ok());
    EXPECT_THAT(DecodePicture(each.file, 24 * 16 - 1).status().message(),
                HasSubstr("it has 24x16 pixels, more than 383"));
  }
}

TEST(PictureFileTest, WhatIsCutOffAnywhereIsRefusedOrGivesNoPixels) {
  for (const Format& each : Formats()) {
    for (size_t bytes = 0; bytes < each.file.size(); ++bytes) {
      const std::string cut = each.file.substr(0, bytes);
      (void)PictureTexts(cut);
      // PNG's IEND, JPEG's EOI, a pad byte.
      const size_t end_bytes = each.format == v1::IMAGE_FORMAT_PNG ? 12 : 2;
      const bool only_its_end = bytes + end_bytes >= each.file.size();
      EXPECT_TRUE(only_its_end || !DecodePicture(cut).ok())
          << bytes << " of " << each.file.size() << " bytes of " << each.format;
    }
  }
}

TEST(PictureFileTest, ASegmentLongerThanTheFileIsCutOff) {
  EXPECT_THAT(JpegXmp("\xFF\xD8\xFF\xE1\xFF\xFF"
                      "abc")
                  .status()
                  .message(),
              HasSubstr("cut off"));
  const std::string webp = std::string(
      "RIFF\x40\0\0\0WEBPXMP \xFF\xFF\xFF\xFF"
      "abc",
      23);
  EXPECT_THAT(WebpXmp(webp).status().message(), HasSubstr("cut off"));
}

}  // namespace
}  // namespace patchflow
