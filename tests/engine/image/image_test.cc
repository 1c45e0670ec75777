#include "engine/image/image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/engine/image/pictures.h"

namespace patchflow {
namespace {

using ::testing::StartsWith;

struct Format {
  ImageFormat format;
  const char* name;
};
constexpr Format kFormats[] = {{ImageFormat::kPng, "png"},
                               {ImageFormat::kJpeg, "jpg"},
                               {ImageFormat::kWebp, "webp"},
                               {ImageFormat::kRawRgb8, "rgb"}};

absl::Status Refusal(const Image& image, const EncodeOptions& options) {
  return EncodeImage(image, options).status();
}

TEST(EncodeImageTest, WritesEachFormat) {
  const Image image = MakePicture(Picture::kGradient, 20, 10);
  EXPECT_THAT(EncodeImage(image, {.format = ImageFormat::kPng}).value(), StartsWith("\x89PNG"));
  EXPECT_THAT(EncodeImage(image, {.format = ImageFormat::kJpeg}).value(),
              StartsWith("\xFF\xD8\xFF"));
  EXPECT_THAT(EncodeImage(image, {.format = ImageFormat::kWebp}).value(), StartsWith("RIFF"));
  EXPECT_EQ(EncodeImage(image, {.format = ImageFormat::kRawRgb8}).value(),
            std::string(image.pixels.begin(), image.pixels.end()));
}

TEST(EncodeImageTest, DefaultQualityIs90) {
  const Image image = MakePicture(Picture::kStripes, 100, 100);
  for (ImageFormat format : {ImageFormat::kJpeg, ImageFormat::kWebp}) {
    const std::string unset = EncodeImage(image, {.format = format}).value();
    EXPECT_EQ(unset, EncodeImage(image, {.format = format, .quality = 90}).value());
    EXPECT_NE(unset, EncodeImage(image, {.format = format, .quality = 89}).value());
  }
}

TEST(EncodeImageTest, RefusesSizesThatThePixelsDeny) {
  EXPECT_EQ(Refusal({0, 4, {}}, {}).message(), "image: 0x4 px, at least 1 px a side is needed");
  EXPECT_EQ(Refusal({4, -1, {}}, {}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Refusal({2, 2, std::vector<uint8_t>(11)}, {}).message(),
            "image: 11 bytes of pixels, 2x2 px have 12");
  EXPECT_EQ(Refusal({2147483647, 2147483647, std::vector<uint8_t>(12)}, {}).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(EncodeImageTest, RefusesOptionsOutOfTheirLimits) {
  const Image image = MakePicture(Picture::kFlat, 4, 4);
  EXPECT_EQ(Refusal(image, {.threads = 0}).message(), "threads: 0, at least 1 is needed");
  EXPECT_EQ(Refusal(image, {.format = ImageFormat::kJpeg, .quality = 101}).message(),
            "quality: 101 is not in 1 .. 100, nor 0 for the default");
  EXPECT_EQ(Refusal(image, {.format = ImageFormat::kWebp, .quality = -1}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Refusal(image, {.format = ImageFormat::kPng, .quality = 101}).ok());
  for (const Format& format : kFormats) {
    EXPECT_EQ(Refusal(image, {.format = format.format, .metadata = {{"a b", ""}}}).code(),
              absl::StatusCode::kInvalidArgument)
        << format.name;
  }
}

// Every format, read by another program's decoders.
TEST(EncodeImageTest, PillowReadsPixelsAndMetadata) {
  const std::filesystem::path folder =
      std::filesystem::path(testing::TempDir()) / ("pillow-" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  const std::vector<std::pair<std::string, std::string>> metadata = {
      {"prompt", "a <red> \xF0\x9F\x8C\xB7 & \xC3\xA9t\xC3\xA9"},
      {"seed", "42"},
      {"DigitalSourceType",
       "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"}};
  for (Picture picture : {Picture::kFlat, Picture::kGradient, Picture::kNoise}) {
    for (const auto& [width_px, height_px] :
         std::vector<std::pair<int, int>>{{1, 1}, {33, 17}, {640, 480}}) {
      const Image image = MakePicture(picture, width_px, height_px);
      const std::string stem = std::to_string(static_cast<int>(picture)) + "-" +
                               std::to_string(width_px) + "x" + std::to_string(height_px);
      for (const Format& format : kFormats) {
        std::ofstream(folder / (stem + "." + format.name), std::ios::binary)
            << EncodeImage(image, {.format = format.format, .metadata = metadata}).value();
      }
    }
  }
  const std::string command =
      PATCHFLOW_PYTHON " tests/engine/image/read_with_pillow.py '" + folder.string() + "'";
  EXPECT_EQ(std::system(command.c_str()), 0);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace patchflow
