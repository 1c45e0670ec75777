#include "engine/pixels.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

namespace patchflow {
namespace {

TEST(PixelsTest, RoundsHalfToEvenAndClamps) {
  const auto image = ImageFromTensor(
      at::tensor({-3.0F, -1.0F, 0.0F, 1.0F, 7.0F, 1.0F / 255}).view({1, 1, 6}).expand({3, 1, 6}));
  ASSERT_TRUE(image.has_value());
  EXPECT_EQ(image->pixels, (std::vector<uint8_t>{0, 0, 0, 0, 0, 0, 128, 128, 128, 255, 255, 255,
                                                 255, 255, 255, 128, 128, 128}));
}

TEST(PixelsTest, MakesNoImageOfPixelsThatAreNotFinite) {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
        -std::numeric_limits<double>::infinity()}) {
    at::Tensor pixels = at::zeros({3, 32, 16});
    pixels[2][31][15] = bad;
    EXPECT_FALSE(ImageFromTensor(pixels).has_value()) << bad;
    EXPECT_FALSE(ImageFromTensor(pixels.to(at::kBFloat16)).has_value()) << bad;
  }
}

}  // namespace
}  // namespace patchflow
