#include "engine/image/png_filter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "tests/engine/image/pictures.h"

namespace patchflow {
namespace {

int PaethOfTheStandard(int a, int b, int c) {
  const int p = a + b - c;
  const int pa = std::abs(p - a);
  const int pb = std::abs(p - b);
  const int pc = std::abs(p - c);
  if (pa <= pb && pa <= pc) return a;
  return pb <= pc ? b : c;
}

int Predict(int filter, int a, int b, int c) {
  switch (filter) {
    case 1:
      return a;
    case 2:
      return b;
    case 3:
      return (a + b) / 2;
    case 4:
      return PaethOfTheStandard(a, b, c);
    default:
      return 0;
  }
}

struct Residuals {
  std::vector<uint8_t> bytes;
  int64_t magnitude = 0;
};

Residuals ByTheStandard(int filter, const uint8_t* row, const uint8_t* above, size_t bytes) {
  Residuals residuals;
  for (size_t i = 0; i < bytes; ++i) {
    const int a = i < 3 ? 0 : row[i - 3];
    const int b = above == nullptr ? 0 : above[i];
    const int c = i < 3 || above == nullptr ? 0 : above[i - 3];
    const auto residual = static_cast<uint8_t>(row[i] - Predict(filter, a, b, c));
    residuals.bytes.push_back(residual);
    residuals.magnitude += std::abs(static_cast<int8_t>(residual));
  }
  return residuals;
}

TEST(RowFilterTest, WritesTheResidualsOfTheFilterWithTheLeastMagnitude) {
  for (Picture picture : {Picture::kFlat, Picture::kGradient, Picture::kNoise, Picture::kStripes}) {
    for (int width_px : {1, 2, 5, 64, 333}) {
      const Image image = MakePicture(picture, width_px, 9);
      const size_t row_bytes = 3 * static_cast<size_t>(width_px);
      RowFilter filter(row_bytes);
      std::vector<uint8_t> out(1 + row_bytes);
      for (size_t y = 0; y < 9; ++y) {
        const uint8_t* row = image.pixels.data() + y * row_bytes;
        const uint8_t* above = y == 0 ? nullptr : row - row_bytes;
        filter.Filter(row, above, out.data());
        ASSERT_LE(out[0], 4);
        const Residuals chosen = ByTheStandard(out[0], row, above, row_bytes);
        EXPECT_EQ(std::vector<uint8_t>(out.begin() + 1, out.end()), chosen.bytes);
        for (int other = 0; other < 5; ++other) {
          EXPECT_LE(chosen.magnitude, ByTheStandard(other, row, above, row_bytes).magnitude)
              << other;
        }
      }
    }
  }
}

TEST(RowFilterTest, PredictsEachKindOfRowExactly) {
  const std::vector<uint8_t> above = {10, 200, 30, 90, 5, 250, 77, 1, 40};
  RowFilter filter(above.size());
  std::vector<uint8_t> out(1 + above.size());
  filter.Filter(above.data(), above.data(), out.data());
  EXPECT_EQ(out, (std::vector<uint8_t>{2, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  const std::vector<uint8_t> flat(9, 100);
  filter.Filter(flat.data(), nullptr, out.data());
  EXPECT_EQ(out, (std::vector<uint8_t>{1, 100, 100, 100, 0, 0, 0, 0, 0, 0}));
  const std::vector<uint8_t> black(9, 0);
  filter.Filter(black.data(), above.data(), out.data());
  EXPECT_EQ(out, (std::vector<uint8_t>{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
}

}  // namespace
}  // namespace patchflow
