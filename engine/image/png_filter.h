// PNG's row filters for RGB8, and the choice among them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace patchflow {

// Filters rows of one width. Not thread-safe: one for each thread.
class RowFilter {
 public:
  explicit RowFilter(size_t row_bytes);

  // Writes 1 + row_bytes to `out`: the number of the filter whose residuals have the least sum of
  // magnitudes, and the residuals. `above` is the row before, unfiltered; nullptr for the first row
  // of an image. Source: PNG (W3C, third edition) sections 9 and 12.7.
  void Filter(const uint8_t* row, const uint8_t* above, uint8_t* out);

 private:
  size_t row_bytes_;
  std::vector<uint8_t> zeros_;
  std::vector<uint8_t> trial_;
};

}  // namespace patchflow
