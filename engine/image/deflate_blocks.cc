#include "engine/image/deflate_blocks.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

constexpr int kMaxCodeBits = 15;
constexpr int kPeekBits = 57;
constexpr int kEndOfBlock = 256;
constexpr size_t kLengthCodes = 288;
constexpr size_t kDistanceCodes = 32;

class BitReader {
 public:
  explicit BitReader(std::string_view stream) : stream_(stream) {}

  size_t position() const { return position_; }
  bool past_end() const { return position_ > 8 * stream_.size(); }
  void Skip(size_t bits) { position_ += bits; }
  void AlignToByte() { position_ = (position_ + 7) & ~size_t{7}; }

  // At least kPeekBits from the position on; zeros after the end.
  uint64_t Peek() const {
    const size_t byte = position_ / 8;
    uint64_t word = 0;
    if (std::endian::native == std::endian::little && byte + 8 <= stream_.size()) {
      std::memcpy(&word, stream_.data() + byte, 8);
    } else {
      for (size_t i = 0; i < 8 && byte + i < stream_.size(); ++i) {
        word |= uint64_t{static_cast<uint8_t>(stream_[byte + i])} << (8 * i);
      }
    }
    return word >> (position_ % 8);
  }

  uint32_t Take(int bits) {
    const auto value = static_cast<uint32_t>(Peek() & ((uint64_t{1} << bits) - 1));
    Skip(bits);
    return value;
  }

 private:
  std::string_view stream_;
  size_t position_ = 0;
};

// What one code stands for, as far as its length in the stream goes.
struct Symbol {
  uint8_t code_bits = 0;  // 0: no such code.
  uint8_t extra_bits = 0;
  uint16_t value = 0;
};

// A prefix code as a table indexed by the next bits of the stream.
class PrefixCode {
 public:
  // False if the lengths name more codes than there are.
  bool Build(std::span<const uint8_t> lengths, std::span<const uint8_t> extra_bits) {
    std::array<int, kMaxCodeBits + 1> count{};
    for (uint8_t length : lengths) ++count[length];
    count[0] = 0;
    index_bits_ = kMaxCodeBits;
    while (index_bits_ > 1 && count[index_bits_] == 0) --index_bits_;
    std::array<uint32_t, kMaxCodeBits + 2> next{};
    for (int bits = 1; bits <= kMaxCodeBits; ++bits) {
      next[bits + 1] = (next[bits] + count[bits]) << 1;
      if (next[bits] + count[bits] > (1U << bits)) return false;
    }
    table_.assign(size_t{1} << index_bits_, Symbol{});
    for (size_t value = 0; value < lengths.size(); ++value) {
      const int bits = lengths[value];
      if (bits == 0) continue;
      const Symbol symbol{static_cast<uint8_t>(bits),
                          extra_bits.empty() ? uint8_t{0} : extra_bits[value],
                          static_cast<uint16_t>(value)};
      for (size_t i = Reverse(next[bits]++, bits); i < table_.size(); i += size_t{1} << bits) {
        table_[i] = symbol;
      }
    }
    return true;
  }

  int index_bits() const { return index_bits_; }

  Symbol Decode(uint64_t bits) const { return table_[bits & ((uint64_t{1} << index_bits_) - 1)]; }

 private:
  static size_t Reverse(uint32_t code, int bits) {
    size_t reversed = 0;
    for (int i = 0; i < bits; ++i) reversed |= size_t{(code >> i) & 1} << (bits - 1 - i);
    return reversed;
  }

  int index_bits_ = 1;
  std::vector<Symbol> table_;
};

constexpr std::array<uint8_t, kLengthCodes> LengthExtraBits() {
  std::array<uint8_t, kLengthCodes> extra{};
  for (int code = 265; code < 285; ++code) extra[code] = static_cast<uint8_t>((code - 261) / 4);
  return extra;
}
constexpr std::array<uint8_t, kDistanceCodes> DistanceExtraBits() {
  std::array<uint8_t, kDistanceCodes> extra{};
  for (int code = 4; code < 30; ++code) extra[code] = static_cast<uint8_t>((code - 2) / 2);
  return extra;
}
constexpr auto kLengthExtraBits = LengthExtraBits();
constexpr auto kDistanceExtraBits = DistanceExtraBits();

class BlockWalker {
 public:
  explicit BlockWalker(std::string_view stream) : reader_(stream) {}

  absl::StatusOr<LastBlock> Walk() {
    LastBlock block;
    bool final = false;
    while (!final) {
      block.header_bit = reader_.position();
      final = reader_.Take(1) == 1;
      const uint32_t type = reader_.Take(2);
      if (!SkipBlock(type) || reader_.past_end()) {
        return absl::DataLossError(
            absl::StrCat("deflate stream: the block at bit ", block.header_bit, " is broken"));
      }
      block.end_bit = reader_.position();
    }
    return block;
  }

 private:
  bool SkipBlock(uint32_t type) {
    switch (type) {
      case 0:
        return SkipStored();
      case 1:
        return BuildFixed() && SkipSymbols();
      case 2:
        return BuildDynamic() && SkipSymbols();
      default:
        return false;
    }
  }

  bool SkipStored() {
    reader_.AlignToByte();
    const uint32_t size = reader_.Take(16);
    const uint32_t inverse = reader_.Take(16);
    reader_.Skip(size_t{8} * size);
    return (size ^ inverse) == 0xFFFF;
  }

  bool BuildFixed() {
    std::array<uint8_t, kLengthCodes> lengths{};
    for (size_t i = 0; i < kLengthCodes; ++i) {
      lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    }
    std::array<uint8_t, kDistanceCodes> distances{};
    distances.fill(5);
    return lengths_.Build(lengths, kLengthExtraBits) &&
           distances_.Build(distances, kDistanceExtraBits);
  }

  bool BuildDynamic() {
    constexpr std::array<uint8_t, 19> kOrder = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                                11, 4,  12, 3, 13, 2, 14, 1, 15};
    const size_t num_lengths = 257 + reader_.Take(5);
    const size_t num_distances = 1 + reader_.Take(5);
    const size_t num_code_lengths = 4 + reader_.Take(4);
    std::array<uint8_t, 19> code_lengths{};
    for (size_t i = 0; i < num_code_lengths; ++i) {
      code_lengths[kOrder[i]] = static_cast<uint8_t>(reader_.Take(3));
    }
    if (num_lengths > kLengthCodes || !code_lengths_.Build(code_lengths, {})) return false;

    std::array<uint8_t, kLengthCodes + kDistanceCodes> lengths{};
    const size_t total = num_lengths + num_distances;
    for (size_t i = 0; i < total;) {
      const Symbol symbol = code_lengths_.Decode(reader_.Peek());
      reader_.Skip(symbol.code_bits);
      if (symbol.code_bits == 0 || (symbol.value == 16 && i == 0)) return false;
      if (symbol.value < 16) {
        lengths[i++] = static_cast<uint8_t>(symbol.value);
        continue;
      }
      const uint8_t repeated = symbol.value == 16 ? lengths[i - 1] : uint8_t{0};
      const size_t times = symbol.value == 16   ? 3 + reader_.Take(2)
                           : symbol.value == 17 ? 3 + reader_.Take(3)
                                                : 11 + reader_.Take(7);
      if (i + times > total) return false;
      std::fill_n(lengths.begin() + static_cast<std::ptrdiff_t>(i), times, repeated);
      i += times;
    }
    const std::span<const uint8_t> all(lengths);
    return lengths_.Build(all.first(num_lengths), kLengthExtraBits) &&
           distances_.Build(all.subspan(num_lengths, num_distances), kDistanceExtraBits);
  }

  bool SkipSymbols() {
    const PrefixCode& lengths = lengths_;
    const int symbols_in_peek = kPeekBits / lengths.index_bits();
    while (!reader_.past_end()) {
      uint64_t bits = reader_.Peek();
      size_t used = 0;
      Symbol symbol;
      for (int i = 0; i < symbols_in_peek; ++i) {
        symbol = lengths.Decode(bits);
        if (symbol.code_bits == 0) return false;
        if (symbol.value >= kEndOfBlock) break;
        bits >>= symbol.code_bits;
        used += symbol.code_bits;
      }
      reader_.Skip(used);
      if (symbol.value < kEndOfBlock) continue;
      reader_.Skip(symbol.code_bits + symbol.extra_bits);
      if (symbol.value == kEndOfBlock) return true;
      const Symbol distance = distances_.Decode(reader_.Peek());
      if (distance.code_bits == 0) return false;
      reader_.Skip(distance.code_bits + distance.extra_bits);
    }
    return false;
  }

  BitReader reader_;
  PrefixCode code_lengths_;
  PrefixCode lengths_;
  PrefixCode distances_;
};

}  // namespace

absl::StatusOr<LastBlock> FindLastBlock(std::string_view stream) {
  return BlockWalker(stream).Walk();
}

}  // namespace patchflow
