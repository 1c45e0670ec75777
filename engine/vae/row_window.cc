#include "engine/vae/row_window.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "engine/vae/row_ops.h"

namespace patchflow {
namespace {

constexpr int64_t kHalo = 1;

Tensor AsImage(const Tensor& rows_hWC) { return rows_hWC.unsqueeze(0).permute({0, 3, 1, 2}); }
Tensor AsRows(const Tensor& image_1Chw) { return image_1Chw.permute({0, 2, 3, 1}).squeeze(0); }

}  // namespace

std::vector<RowRange> Slabs(int64_t h, int64_t most) {
  const int64_t count = (h + most - 1) / most;
  std::vector<RowRange> slabs;
  for (int64_t i = 0; i < count; ++i) {
    slabs.push_back({h * i / count, h * (i + 1) / count});
  }
  return slabs;
}

RowWindow::RowWindow(const Tensor& x_hWC, FillRows fill, NeighbourRows& neighbours,
                     int64_t most_rows)
    : x_hWC_(x_hWC), fill_(std::move(fill)) {
  const int64_t h = x_hWC.size(0);
  const int64_t width = x_hWC.size(1);
  const int64_t channels = x_hWC.size(2);
  buffer_hWC_ = at::empty({std::min(most_rows, h) + 2 * kHalo, width, channels}, x_hWC.options());
  CheckIndexable(buffer_hWC_, "a slab of rows");
  const Tensor edges_hWC = at::empty({2 * kHalo, width, channels}, x_hWC.options());
  fill_(x_hWC.narrow(0, 0, kHalo), edges_hWC.narrow(0, 0, kHalo));
  fill_(x_hWC.narrow(0, h - kHalo, kHalo), edges_hWC.narrow(0, kHalo, kHalo));
  const Tensor with_halo_hWC = AsRows(neighbours.WithHalo(AsImage(edges_hWC), kHalo));
  above_WC_ = with_halo_hWC[0];
  below_WC_ = with_halo_hWC[3 * kHalo];
}

Tensor RowWindow::Next(RowRange slab) {
  const int64_t h = x_hWC_.size(0);
  TORCH_CHECK(slab.begin == last_.end && slab.size() > 0 && slab.end <= h &&
                  slab.size() + 2 * kHalo <= buffer_hWC_.size(0),
              "rows [", slab.begin, ", ", slab.end, ") do not follow row ", last_.end, " of ", h);
  int64_t filled = slab.begin;  // Rows below this one are in the buffer already.
  if (slab.begin == 0) {
    buffer_hWC_[0].copy_(above_WC_);
  } else {
    buffer_hWC_[0].copy_(buffer_hWC_[last_.size()]);
    buffer_hWC_[1].copy_(buffer_hWC_[last_.size() + 1]);
    filled += 1;
  }
  const int64_t end = std::min(slab.end + kHalo, h);
  if (end > filled) {
    fill_(x_hWC_.narrow(0, filled, end - filled),
          buffer_hWC_.narrow(0, filled - slab.begin + kHalo, end - filled));
  }
  if (slab.end == h) {
    buffer_hWC_[slab.size() + 1].copy_(below_WC_);
  }
  last_ = slab;
  return AsImage(buffer_hWC_.narrow(0, 0, slab.size() + 2 * kHalo));
}

}  // namespace patchflow
