// Deflate in strips that join into one stream, which libdeflate alone doesn't make: it ends every
// stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"

struct libdeflate_compressor;

namespace patchflow {

enum class StripEnd {
  kOpen,  // Another strip follows: no block is marked final, and the strip ends at a byte boundary.
  kFinal,  // Ends the stream.
};

// Not thread-safe: one for each thread.
class StripDeflater {
 public:
  // `level`: of libdeflate, 1 (fast) to 12. Throws std::bad_alloc.
  explicit StripDeflater(int level);
  ~StripDeflater();

  // Raw deflate of `data`, the same bytes each time. Strips end to end, the last one kFinal, are
  // one stream (RFC 1951) of their data end to end; no strip refers to bytes of an earlier one.
  // INTERNAL if libdeflate fails.
  absl::StatusOr<std::string> Deflate(std::span<const uint8_t> data, StripEnd end);

 private:
  struct Free {
    void operator()(libdeflate_compressor* compressor) const;
  };
  std::unique_ptr<libdeflate_compressor, Free> compressor_;
};

}  // namespace patchflow
