#include "server/trace_context.h"

#include "absl/strings/str_cat.h"
#include "server/random.h"

namespace patchflow {
namespace {

constexpr size_t kLength = 55;  // Of version 00.
constexpr uint8_t kSampled = 1;

// Lower case alone, as the standard demands.
std::optional<uint64_t> ParseHex(std::string_view digits) {
  uint64_t value = 0;
  for (const char c : digits) {
    if (c >= '0' && c <= '9') {
      value = value << 4 | static_cast<uint64_t>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      value = value << 4 | static_cast<uint64_t>(c - 'a' + 10);
    } else {
      return std::nullopt;
    }
  }
  return value;
}

uint64_t NotZero(uint64_t bits) { return bits == 0 ? 1 : bits; }

}  // namespace

std::optional<TraceContext> ParseTraceparent(std::string_view header) {
  if (header.size() < kLength || header[2] != '-' || header[35] != '-' || header[52] != '-') {
    return std::nullopt;
  }
  const auto version = ParseHex(header.substr(0, 2));
  const auto high = ParseHex(header.substr(3, 16));
  const auto low = ParseHex(header.substr(19, 16));
  const auto span = ParseHex(header.substr(36, 16));
  const auto flags = ParseHex(header.substr(53, 2));
  if (!version || !high || !low || !span || !flags || *version == 0xFF) {
    return std::nullopt;
  }
  const bool longer = header.size() > kLength;
  if (longer && (*version == 0 || header[kLength] != '-')) {
    return std::nullopt;
  }
  if ((*high == 0 && *low == 0) || *span == 0) {
    return std::nullopt;
  }
  return TraceContext{*high, *low, *span, (*flags & kSampled) != 0};
}

std::string HexOf(uint64_t id) { return absl::StrCat(absl::Hex(id, absl::kZeroPad16)); }

std::string TraceIdOf(const TraceContext& context) {
  return HexOf(context.trace_high) + HexOf(context.trace_low);
}

std::string TraceparentOf(const TraceContext& context) {
  return absl::StrCat("00-", TraceIdOf(context), "-", HexOf(context.span), "-",
                      context.sampled ? "01" : "00");
}

TraceContext NewTrace(bool sampled) {
  return {NotZero(RandomBits()), RandomBits(), NotZero(RandomBits()), sampled};
}

// The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
uint64_t ChildSpan(uint64_t parent, uint64_t n) {
  uint64_t z = parent + (n + 1) * 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return NotZero(z ^ (z >> 31));
}

}  // namespace patchflow
