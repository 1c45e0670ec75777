#include "engine/image/jpeg.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <jpeglib.h>

#include "tests/engine/image/pictures.h"

namespace patchflow {
namespace {

struct Decoded {
  Image image;
  std::string app1;
};

Decoded Decode(const std::string& jpeg) {
  jpeg_decompress_struct info;
  jpeg_error_mgr error;
  info.err = jpeg_std_error(&error);
  jpeg_create_decompress(&info);
  jpeg_save_markers(&info, JPEG_APP0 + 1, 0xFFFF);
  jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(jpeg.data()), jpeg.size());
  jpeg_read_header(&info, TRUE);
  info.out_color_space = JCS_RGB;
  jpeg_start_decompress(&info);
  Decoded decoded;
  decoded.image.width_px = static_cast<int>(info.output_width);
  decoded.image.height_px = static_cast<int>(info.output_height);
  const size_t row_bytes = size_t{3} * info.output_width;
  decoded.image.pixels.resize(row_bytes * info.output_height);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = &decoded.image.pixels[info.output_scanline * row_bytes];
    jpeg_read_scanlines(&info, &row, 1);
  }
  if (info.marker_list != nullptr) {
    decoded.app1.assign(reinterpret_cast<char*>(info.marker_list->data),
                        info.marker_list->data_length);
  }
  EXPECT_EQ(error.num_warnings, 0);
  jpeg_finish_decompress(&info);
  jpeg_destroy_decompress(&info);
  return decoded;
}

TEST(JpegTest, LibjpegReadsBackEverySize) {
  for (const auto& [width_px, height_px] : std::vector<std::pair<int, int>>{
           {1, 1}, {2, 3}, {7, 5}, {17, 16}, {255, 257}, {640, 368}, {65500, 2}}) {
    const Image image = MakePicture(Picture::kGradient, width_px, height_px);
    const absl::StatusOr<std::string> jpeg = EncodeJpeg(image, {}, 95);
    ASSERT_TRUE(jpeg.ok()) << jpeg.status();
    const Decoded decoded = Decode(*jpeg);
    EXPECT_EQ(decoded.image.width_px, width_px);
    EXPECT_EQ(decoded.image.height_px, height_px);
    if (height_px > 16) {
      EXPECT_GT(Psnr(decoded.image.pixels, image.pixels), 38) << width_px << "x" << height_px;
    }
  }
}

TEST(JpegTest, QualityTradesBytesForFidelity) {
  const Image image = MakePicture(Picture::kStripes, 256, 256);
  const std::string low = EncodeJpeg(image, {}, 1).value();
  const std::string middle = EncodeJpeg(image, {}, 50).value();
  const std::string high = EncodeJpeg(image, {}, 100).value();
  EXPECT_LT(low.size(), middle.size());
  EXPECT_LT(middle.size(), high.size());
  EXPECT_LT(Psnr(Decode(low).image.pixels, image.pixels),
            Psnr(Decode(high).image.pixels, image.pixels));
}

TEST(JpegTest, KeepsMetadataAsXmp) {
  const Metadata metadata = {{"prompt", "fish & chips"}, {"seed", "7"}};
  const Decoded decoded =
      Decode(EncodeJpeg(MakePicture(Picture::kFlat, 16, 16), metadata, 90).value());
  const std::string name("http://ns.adobe.com/xap/1.0/\0", 29);
  EXPECT_EQ(decoded.app1, name + XmpPacket(metadata));
}

TEST(JpegTest, TakesThePacketThatJustFits) {
  const Image image = MakePicture(Picture::kFlat, 16, 16);
  const size_t around = XmpPacket({{"p", ""}}).size();
  const std::string fits(65504 - around, 'x');
  const absl::StatusOr<std::string> jpeg = EncodeJpeg(image, {{"p", fits}}, 90);
  ASSERT_TRUE(jpeg.ok()) << jpeg.status();
  EXPECT_EQ(Decode(*jpeg).app1.size(), 65533);
  EXPECT_EQ(EncodeJpeg(image, {{"p", fits + "x"}}, 90).status(),
            absl::InvalidArgumentError(
                "metadata: an XMP packet of 65505 bytes, JPEG holds at most 65504"));
}

TEST(JpegTest, RefusesMoreThanItHolds) {
  EXPECT_EQ(EncodeJpeg(MakePicture(Picture::kFlat, 65501, 1), {}, 90).status(),
            absl::InvalidArgumentError("image: 65501x1 px, JPEG holds at most 65500 px a side"));
  EXPECT_EQ(EncodeJpeg(MakePicture(Picture::kFlat, 1, 65501), {}, 90).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace patchflow
