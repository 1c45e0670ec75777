#include "engine/image/deflate_blocks.h"

#include <zlib.h>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace patchflow {
namespace {

std::string Text(size_t bytes) {
  std::mt19937 random(3);
  std::string text;
  while (text.size() < bytes) {
    const size_t back = 1 + random() % 40;
    if (text.size() > 60 && random() % 3 == 0) {
      text += text.substr(text.size() - 50, back);
    } else {
      text.push_back(static_cast<char>('a' + random() % 7 * (random() % 4)));
    }
  }
  text.resize(bytes);
  return text;
}

std::string Noise(size_t bytes) {
  std::mt19937 random(4);
  std::string noise(bytes, '\0');
  for (char& c : noise) c = static_cast<char>(random());
  return noise;
}

std::string DeflateByZlib(const std::string& data, int level, int strategy, int flush_every) {
  z_stream stream{};
  deflateInit2(&stream, level, Z_DEFLATED, -15, 8, strategy);
  std::string out(2 * data.size() + 100 * (data.size() / flush_every + 10), '\0');
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  for (size_t at = 0;; at += flush_every) {
    const bool last = data.size() - at <= static_cast<size_t>(flush_every);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data() + at));
    stream.avail_in = static_cast<uInt>(last ? data.size() - at : flush_every);
    deflate(&stream, last ? Z_FINISH : Z_BLOCK);
    if (last) break;
  }
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// By zlib's inflate, stopping after each block.
LastBlock FindByZlib(const std::string& data) {
  z_stream stream{};
  inflateInit2(&stream, -15);
  std::string out(1 << 22, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  LastBlock block;
  size_t position = 0;
  while (true) {
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    stream.avail_out = static_cast<uInt>(out.size());
    const int result = inflate(&stream, Z_BLOCK);
    const size_t unused_bits = stream.data_type & 63;
    if ((stream.data_type & 128) != 0 || result == Z_STREAM_END) {
      block.header_bit = position;
      position = 8 * stream.total_in - unused_bits;
    }
    if (result != Z_OK || (stream.data_type & 64) != 0) break;
  }
  inflateEnd(&stream);
  block.end_bit = position;
  return block;
}

TEST(DeflateBlocksTest, FindsWhatInflateFinds) {
  for (const std::string& data :
       {std::string(), std::string("a"), Text(100), Text(70000), Noise(70000),
        Text(300000) + Noise(50000), std::string(200000, '\0')}) {
    for (int level : {0, 1, 6, 9}) {
      for (int strategy : {Z_DEFAULT_STRATEGY, Z_FIXED, Z_HUFFMAN_ONLY, Z_RLE}) {
        for (int flush_every : {1000, 33333, 1 << 30}) {
          SCOPED_TRACE(testing::Message()
                       << data.size() << " bytes, level " << level << ", strategy " << strategy
                       << ", a block every " << flush_every);
          const std::string stream = DeflateByZlib(data, level, strategy, flush_every);
          const LastBlock expected = FindByZlib(stream);
          const absl::StatusOr<LastBlock> found = FindLastBlock(stream);
          ASSERT_TRUE(found.ok()) << found.status();
          EXPECT_EQ(found->header_bit, expected.header_bit);
          EXPECT_EQ(found->end_bit, expected.end_bit);
          EXPECT_EQ((found->end_bit + 7) / 8, stream.size());
        }
      }
    }
  }
}

TEST(DeflateBlocksTest, StopsAtTheEndOfTheStream) {
  const std::string stream = DeflateByZlib(Text(5000), 6, Z_DEFAULT_STRATEGY, 1 << 30);
  const absl::StatusOr<LastBlock> found = FindLastBlock(stream + Noise(100));
  ASSERT_TRUE(found.ok());
  EXPECT_EQ((found->end_bit + 7) / 8, stream.size());
}

TEST(DeflateBlocksTest, RefusesEveryTruncation) {
  for (int level : {0, 6}) {
    const std::string stream = DeflateByZlib(Text(3000), level, Z_DEFAULT_STRATEGY, 1000);
    for (size_t size = 0; size < stream.size(); ++size) {
      EXPECT_EQ(FindLastBlock(stream.substr(0, size)).status().code(), absl::StatusCode::kDataLoss)
          << size;
    }
  }
}

TEST(DeflateBlocksTest, RefusesBrokenBlocks) {
  const auto broken = [](std::vector<uint8_t> bytes) {
    bytes.resize(bytes.size() + 400);
    return FindLastBlock(std::string(bytes.begin(), bytes.end())).status().code() ==
           absl::StatusCode::kDataLoss;
  };
  EXPECT_TRUE(broken({0x07}));                          // Block type 3.
  EXPECT_TRUE(broken({0x01, 0x05, 0x00, 0x00, 0x00}));  // A length that its complement denies.
  EXPECT_TRUE(
      broken({0xFD, 0xFF, 0xFF, 0xFF, 0xFF}));  // Too many codes, code lengths all of 7 bits.
  EXPECT_TRUE(broken({0x05, 0x00, 0xFE, 0xFF, 0xFF}));  // Over-subscribed code lengths.
}

TEST(DeflateBlocksTest, EndsOnAnyBytes) {
  std::mt19937 random(5);
  std::string stream = DeflateByZlib(Text(3000), 6, Z_DEFAULT_STRATEGY, 700);
  for (int i = 0; i < 20000; ++i) {
    std::string damaged = i % 2 == 0 ? stream : Noise(200);
    for (int k = 0; k < 3; ++k) damaged[random() % damaged.size()] = static_cast<char>(random());
    const absl::StatusOr<LastBlock> found = FindLastBlock(damaged);
    if (found.ok()) {
      EXPECT_LE(found->end_bit, 8 * damaged.size());
    }
  }
}

}  // namespace
}  // namespace patchflow
