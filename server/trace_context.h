// W3C trace context: which trace a request belongs to.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace patchflow {

struct TraceContext {
  uint64_t trace_high = 0;  // The two halves of a trace id, never both 0.
  uint64_t trace_low = 0;
  uint64_t span = 0;  // Never 0.
  bool sampled = false;

  friend bool operator==(const TraceContext&, const TraceContext&) = default;
};

// Of a traceparent header, "00-<32 hex digits>-<16>-<2>", or of one of a later version that begins
// so. Nothing if it is malformed: the standard has it ignored then.
std::optional<TraceContext> ParseTraceparent(std::string_view header);

// Version 00.
std::string TraceparentOf(const TraceContext& context);

// A new trace with a new span, from the kernel's random numbers.
TraceContext NewTrace(bool sampled);

// 16 digits.
std::string HexOf(uint64_t id);
// 32 digits.
std::string TraceIdOf(const TraceContext& context);

// A number for child `n` of the span `parent`, as good as random, always the same.
uint64_t ChildSpan(uint64_t parent, uint64_t n);

}  // namespace patchflow
