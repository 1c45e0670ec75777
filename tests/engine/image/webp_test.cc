#include "engine/image/webp.h"

#include <webp/decode.h>
#include <webp/mux.h>

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tests/engine/image/pictures.h"

namespace patchflow {
namespace {

Image Decode(const std::string& webp) {
  Image image;
  uint8_t* pixels = WebPDecodeRGB(reinterpret_cast<const uint8_t*>(webp.data()), webp.size(),
                                  &image.width_px, &image.height_px);
  if (pixels == nullptr) return {};
  image.pixels.assign(pixels, pixels + 3 * static_cast<size_t>(image.width_px) * image.height_px);
  WebPFree(pixels);
  return image;
}

std::string XmpOf(const std::string& webp) {
  const WebPData file{reinterpret_cast<const uint8_t*>(webp.data()), webp.size()};
  WebPMux* mux = WebPMuxCreate(&file, 0);
  WebPData chunk{};
  std::string xmp;
  if (WebPMuxGetChunk(mux, "XMP ", &chunk) == WEBP_MUX_OK) {
    xmp.assign(reinterpret_cast<const char*>(chunk.bytes), chunk.size);
  }
  WebPMuxDelete(mux);
  return xmp;
}

TEST(WebpTest, LibwebpReadsBackEverySize) {
  for (const auto& [width_px, height_px] : std::vector<std::pair<int, int>>{
           {1, 1}, {2, 3}, {7, 5}, {17, 16}, {255, 257}, {640, 368}, {16383, 2}}) {
    const Image image = MakePicture(Picture::kGradient, width_px, height_px);
    const absl::StatusOr<std::string> webp = EncodeWebp(image, {}, 95, 2);
    ASSERT_TRUE(webp.ok()) << webp.status();
    const Image decoded = Decode(*webp);
    EXPECT_EQ(decoded.width_px, width_px);
    EXPECT_EQ(decoded.height_px, height_px);
    if (height_px > 16) {
      EXPECT_GT(Psnr(decoded.pixels, image.pixels), 36) << width_px << "x" << height_px;
    }
  }
}

TEST(WebpTest, AnyNumberOfThreadsGivesTheSameBytes) {
  const Image image = MakePicture(Picture::kNoise, 300, 200);
  EXPECT_EQ(EncodeWebp(image, {}, 80, 1).value(), EncodeWebp(image, {}, 80, 4).value());
}

TEST(WebpTest, QualityTradesBytesForFidelity) {
  const Image image = MakePicture(Picture::kStripes, 256, 256);
  const std::string low = EncodeWebp(image, {}, 1, 2).value();
  const std::string high = EncodeWebp(image, {}, 100, 2).value();
  EXPECT_LT(low.size(), high.size());
  EXPECT_LT(Psnr(Decode(low).pixels, image.pixels), Psnr(Decode(high).pixels, image.pixels));
}

TEST(WebpTest, KeepsMetadataAsXmp) {
  const Metadata metadata = {{"prompt", "fish & chips"}, {"long", std::string(1 << 20, 'x')}};
  const Image image = MakePicture(Picture::kGradient, 64, 48);
  const std::string webp = EncodeWebp(image, metadata, 90, 2).value();
  EXPECT_EQ(XmpOf(webp), XmpPacket(metadata));
  EXPECT_EQ(Decode(webp).pixels, Decode(EncodeWebp(image, {}, 90, 2).value()).pixels);
}

TEST(WebpTest, RefusesMoreThanItHolds) {
  EXPECT_EQ(EncodeWebp(MakePicture(Picture::kFlat, 16384, 1), {}, 90, 2).status(),
            absl::InvalidArgumentError("image: 16384x1 px, WebP holds at most 16383 px a side"));
  EXPECT_EQ(EncodeWebp(MakePicture(Picture::kFlat, 1, 16384), {}, 90, 2).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace patchflow
