// A window of rows that slides down a feature map, slab by slab, ready to be convolved.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/ports.h"

namespace patchflow {

// Rows [begin, end) of a map.
struct RowRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};
// `h` rows in slabs of at most `most` rows each, as even as can be.
std::vector<RowRange> Slabs(int64_t h, int64_t most);

// Writes what a convolution reads of the given rows of its input map: the rows themselves, or
// normalised ones.
using FillRows = std::function<void(const Tensor& x_hWC, const Tensor& out_hWC)>;

// Every row is filled once. A slab's last row and the one below it are kept for the next slab, so
// that, once Next() has returned a slab, the storage of all its rows may be overwritten.
class RowWindow {
 public:
  // Collective of the ranks behind `neighbours`, which exchange filled rows. `most_rows`: of any
  // slab.
  RowWindow(const Tensor& x_hWC, FillRows fill, NeighbourRows& neighbours, int64_t most_rows);

  // Filled rows of the next slab, one row above and one row below it; zeros beyond the image:
  // [1, C, slab.size() + 2, W], channels last. Valid until the next call.
  Tensor Next(RowRange slab);

 private:
  Tensor x_hWC_;
  FillRows fill_;
  Tensor buffer_hWC_;
  Tensor above_WC_;
  Tensor below_WC_;
  RowRange last_;
};

}  // namespace patchflow
