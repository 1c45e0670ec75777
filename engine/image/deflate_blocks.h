// Where the blocks of a deflate stream lie: walks the symbols without writing what they stand for.
#pragma once

#include <cstddef>
#include <string_view>

#include "absl/status/statusor.h"

namespace patchflow {

// Positions in bits from the start of the stream; bit 0 is the least significant bit of the first
// byte.
struct LastBlock {
  size_t header_bit = 0;  // The BFINAL bit of the block that has it set.
  size_t end_bit = 0;     // One past the block's last bit.
};

// DATA_LOSS if `stream` is not a raw deflate stream or ends before its final block does. Distances
// and lengths are not checked against the window. Reads each bit once: about a third of the time of
// inflating. Source: RFC 1951.
absl::StatusOr<LastBlock> FindLastBlock(std::string_view stream);

}  // namespace patchflow
