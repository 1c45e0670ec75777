// A batch computed image by image where its rows must not know of each other.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace patchflow {

// f(rows, n) of the rows of each image n, whose results are put together as the rows were: row
// b * images + n is of branch b of image n. One image, and any number on a GPU, is one call,
// f(x, 0).
//
// An image must come out of a batch to the bit as it does alone in it, whichever row it has. On
// CPUs LibTorch's products and elementwise loops may round by where an element lies in its tensor
// (blocks of rows, vectors and the rest behind them, shares of threads), which is the same for
// tensors of one shape alone: AttentionMerger merges other bits without this. On GPUs a kernel
// does the same for every row.
template <typename F>
at::Tensor ByImage(int64_t images, const at::Tensor& x_BSC, F f) {
  if (images == 1 || !x_BSC.is_cpu()) return f(x_BSC, 0);
  const at::Tensor rows = x_BSC.unflatten(0, {-1, images});
  std::vector<at::Tensor> parts;
  for (int64_t n = 0; n < images; ++n) parts.push_back(f(rows.select(1, n).contiguous(), n));
  return at::stack(parts, 1).flatten(0, 1);
}

}  // namespace patchflow
