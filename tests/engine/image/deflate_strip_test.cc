#include "engine/image/deflate_strip.h"

#include <zlib.h>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace patchflow {
namespace {

// False unless `stream` is exactly one whole stream.
bool Inflate(const std::string& stream, size_t size, std::string* data) {
  data->assign(size + 1, '\0');
  z_stream state{};
  inflateInit2(&state, -15);
  state.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(stream.data()));
  state.avail_in = static_cast<uInt>(stream.size());
  state.next_out = reinterpret_cast<Bytef*>(data->data());
  state.avail_out = static_cast<uInt>(data->size());
  const int result = inflate(&state, Z_FINISH);
  data->resize(state.total_out);
  inflateEnd(&state);
  return result == Z_STREAM_END && state.avail_in == 0;
}

enum class Content { kZeros, kNoise, kSkewed, kMixed };

std::vector<uint8_t> Make(Content content, size_t bytes) {
  std::mt19937 random(static_cast<unsigned>(bytes));
  std::vector<uint8_t> data(bytes);
  for (size_t i = 0; i < bytes; ++i) {
    const auto noise = static_cast<uint8_t>(random());
    switch (content) {
      case Content::kZeros:
        break;
      case Content::kNoise:
        data[i] = noise;
        break;
      case Content::kSkewed:
        data[i] = noise & static_cast<uint8_t>(random()) & 0x1F;
        break;
      case Content::kMixed:
        data[i] = i / 5000 % 2 == 0 ? noise : static_cast<uint8_t>(i % 9);
        break;
    }
  }
  return data;
}

TEST(StripDeflaterTest, StripsJoinIntoOneStream) {
  for (Content content : {Content::kZeros, Content::kNoise, Content::kSkewed, Content::kMixed}) {
    for (int level : {1, 5, 9, 12}) {
      StripDeflater deflater(level);
      std::string stream;
      std::string data;
      for (size_t bytes : {0, 1, 2, 3, 17, 100, 4999, 70000, 400001, 0, 33}) {
        const std::vector<uint8_t> strip = Make(content, bytes);
        data.append(strip.begin(), strip.end());
        const absl::StatusOr<std::string> open = deflater.Deflate(strip, StripEnd::kOpen);
        const absl::StatusOr<std::string> final = deflater.Deflate(strip, StripEnd::kFinal);
        ASSERT_TRUE(open.ok() && final.ok());
        std::string inflated;
        ASSERT_TRUE(Inflate(stream + *final, data.size(), &inflated))
            << bytes << " bytes, level " << level;
        ASSERT_EQ(inflated, data);
        stream += *open;
        ASSERT_FALSE(Inflate(stream, data.size(), &inflated)) << "an open strip ends the stream";
        ASSERT_EQ(inflated, data);
      }
    }
  }
}

TEST(StripDeflaterTest, JoinsWithAnyPaddingBeforeTheByteBoundary) {
  StripDeflater deflater(6);
  for (size_t bytes = 1; bytes < 600; ++bytes) {
    const std::vector<uint8_t> strip = Make(Content::kSkewed, bytes);
    const std::string data(strip.begin(), strip.end());
    const std::string stream = deflater.Deflate(strip, StripEnd::kOpen).value() +
                               deflater.Deflate(strip, StripEnd::kFinal).value();
    std::string inflated;
    ASSERT_TRUE(Inflate(stream, 2 * bytes, &inflated)) << bytes;
    ASSERT_EQ(inflated, data + data);
  }
}

TEST(StripDeflaterTest, GivesTheSameBytesAgain) {
  const std::vector<uint8_t> strip = Make(Content::kMixed, 100000);
  StripDeflater used(5);
  ASSERT_TRUE(used.Deflate(Make(Content::kNoise, 50000), StripEnd::kOpen).ok());
  StripDeflater fresh(5);
  EXPECT_EQ(used.Deflate(strip, StripEnd::kOpen).value(),
            fresh.Deflate(strip, StripEnd::kOpen).value());
}

}  // namespace
}  // namespace patchflow
