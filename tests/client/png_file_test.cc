#include "client/png_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "engine/image/png.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

const Image& SmallImage() {
  static const Image image = {2, 1, {255, 0, 1, 2, 3, 4}};
  return image;
}

std::string SmallFile(const Metadata& metadata) { return *EncodePng(SmallImage(), metadata, 1); }

TEST(PngFileTest, TextsAreThoseThatWereWritten) {
  const auto texts = PngTexts(SmallFile({{"prompt", "a \"r\u00e9d\"\nstar"}, {"empty", ""}}));
  ASSERT_TRUE(texts.ok()) << texts.status();
  EXPECT_THAT(*texts, ElementsAre(Pair("empty", ""), Pair("prompt", "a \"r\u00e9d\"\nstar")));
}

TEST(PngFileTest, PixelsAreThoseThatWereWritten) {
  const auto pixels = DecodePng(SmallFile({}));
  ASSERT_TRUE(pixels.ok()) << pixels.status();
  EXPECT_EQ(pixels->width, 2U);
  EXPECT_EQ(pixels->height, 1U);
  EXPECT_EQ(pixels->bytes, SmallImage().pixels);
}

TEST(PngFileTest, WhatIsNoPngIsRefused) {
  for (const std::string& file : {std::string(), std::string("\x89PN"), std::string(100, 'x')}) {
    EXPECT_THAT(PngTexts(file).status().message(), HasSubstr("no PNG"));
    EXPECT_FALSE(DecodePng(file).ok());
  }
}

TEST(PngFileTest, EveryPrefixIsCutOff) {
  const std::string file = SmallFile({{"prompt", "a star"}});
  for (size_t bytes = 8; bytes < file.size(); ++bytes) {
    EXPECT_THAT(PngTexts(file.substr(0, bytes)).status().message(), HasSubstr("cut off")) << bytes;
  }
  EXPECT_FALSE(DecodePng(file.substr(0, file.size() - 30)).ok());
}

int64_t PeakMemoryKb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

TEST(PngFileTest, ALengthThatIsALieTakesNoMemory) {
  std::string file = SmallFile({{"prompt", "a star"}});
  const size_t text = file.find("iTXt");
  ASSERT_NE(text, std::string::npos);
  file.replace(text - 4, 4, "\x70\x60\x01\x01");  // 1.9 GB.
  const int64_t before = PeakMemoryKb();
  EXPECT_THAT(DecodePng(file).status().message(), HasSubstr("cut off"));
  EXPECT_THAT(PngTexts(file).status().message(), HasSubstr("cut off"));
  EXPECT_LT(PeakMemoryKb() - before, 64 << 10);
}

TEST(PngFileTest, AChangedByteIsFound) {
  const std::string file = SmallFile({{"prompt", "a star"}});
  for (size_t i = 0; i < file.size(); ++i) {
    std::string changed = file;
    changed[i] = static_cast<char>(changed[i] ^ 0x21);
    EXPECT_FALSE(PngTexts(changed).ok()) << i;
  }
}

}  // namespace
}  // namespace patchflow
