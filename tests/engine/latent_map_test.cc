#include "engine/latent_map.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

namespace patchflow {
namespace {

// Of one channel: grey where the latent is 0, black at -1, white at 1.
const LatentMap kGrey{1, {1, 1, 1, 0, 0, 0}};

std::vector<float> Values(const at::Tensor& t) {
  const at::Tensor flat = t.to(at::kFloat).contiguous();
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

int RedAt(const Image& image, int y, int x) {
  return image.pixels.at(static_cast<size_t>(3 * (y * image.width_px + x)));
}

TEST(LatentMapTest, FindsTheMapThatMadeThePixels) {
  at::manual_seed(1);
  const at::Tensor latents = at::randn({4, 6, 5});
  const at::Tensor weights = 0.1 * at::randn({5, 3});
  const at::Tensor colours =
      at::matmul(latents.permute({1, 2, 0}), weights.narrow(0, 0, 4)) + weights[4];
  // Detail within a latent's pixels does not change their mean.
  at::Tensor pixels =
      colours.permute({2, 0, 1}).repeat_interleave(8, 1).repeat_interleave(8, 2).clone();
  pixels.slice(2, 0, at::nullopt, 2).add_(0.05);
  pixels.slice(2, 1, at::nullopt, 2).sub_(0.05);
  const LatentMap map = FitLatentMap(latents, pixels);
  EXPECT_EQ(map.channels, 4);
  const std::vector<float> expected = Values(weights);
  ASSERT_EQ(map.weights.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(map.weights[i], expected[i], 1e-4) << i;
}

TEST(LatentMapTest, RefusesPixelsThatAreNotOfTheLatents) {
  EXPECT_THROW(FitLatentMap(at::zeros({4, 6, 5}), at::zeros({3, 48, 41})), c10::Error);
  EXPECT_THROW(FitLatentMap(at::zeros({4, 6, 5}), at::zeros({1, 48, 40})), c10::Error);
  EXPECT_THROW(FitLatentMap(at::full({4, 2, 2}, NAN), at::zeros({3, 16, 16})), c10::Error);
}

TEST(LatentMapTest, PutsTokensInTheirPlaces) {
  const TokenGrid grid{2, 3};
  const at::Tensor latents = at::linspace(-1, 1, 24).reshape({1, 1, 4, 6});
  const std::vector<float> tokens = Values(Patchify(latents, 2));
  const Image image = DrawLatents(kGrey, {tokens, grid, 2}, 6);
  ASSERT_EQ(image.width_px, 6);
  ASSERT_EQ(image.height_px, 4);
  const std::vector<float> expected = Values((255 * (latents / 2 + 0.5)).round());
  for (int y = 0; y < 4; ++y) {
    for (int x = 0; x < 6; ++x) {
      EXPECT_NEAR(RedAt(image, y, x), expected[static_cast<size_t>(6 * y + x)], 1) << y << " " << x;
    }
  }
}

TEST(LatentMapTest, TheLongestSideIsTheOneAskedForUpToTwiceTheLatents) {
  const std::vector<float> wide(size_t{160} * 40);
  const auto size_of = [&](int max_edge_px) {
    const Image image = DrawLatents(kGrey, {wide, {40, 160}, 1}, max_edge_px);
    EXPECT_EQ(image.pixels.size(), size_t{3} * image.width_px * image.height_px);
    return std::pair(image.width_px, image.height_px);
  };
  EXPECT_EQ(size_of(0), std::pair(256, 64));
  EXPECT_EQ(size_of(160), std::pair(160, 40));
  EXPECT_EQ(size_of(50), std::pair(50, 13));
  EXPECT_EQ(size_of(1), std::pair(1, 1));
  EXPECT_EQ(size_of(4096), std::pair(320, 80));
}

TEST(LatentMapTest, ResizingTakesMeansAndKeepsEdges) {
  std::vector<float> halves(size_t{8} * 4);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = i % 8 < 4 ? -1.0F : 1.0F;
  const Image small = DrawLatents(kGrey, {halves, {4, 8}, 1}, 2);
  ASSERT_EQ(std::pair(small.width_px, small.height_px), std::pair(2, 1));
  EXPECT_LT(RedAt(small, 0, 0), 64);
  EXPECT_EQ(RedAt(small, 0, 0) + RedAt(small, 0, 1), 255);
  const Image large = DrawLatents(kGrey, {halves, {4, 8}, 1}, 16);
  EXPECT_EQ(RedAt(large, 0, 0), 0);
  EXPECT_EQ(RedAt(large, 7, 15), 255);
  EXPECT_EQ(RedAt(large, 3, 7) + RedAt(large, 3, 8), 255);
}

TEST(LatentMapTest, WhatIsNotFiniteIsBlackAndWhatIsTooBrightIsWhite) {
  const std::vector<float> odd = {NAN, INFINITY, 9.0F, -9.0F};
  const Image image = DrawLatents(kGrey, {odd, {1, 4}, 1}, 4);
  EXPECT_EQ(RedAt(image, 0, 0), 0);
  EXPECT_EQ(RedAt(image, 0, 1), 0);
  EXPECT_EQ(RedAt(image, 0, 2), 255);
  EXPECT_EQ(RedAt(image, 0, 3), 0);
}

}  // namespace
}  // namespace patchflow
