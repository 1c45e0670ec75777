#include "parallel/neighbour_rows.h"

#include <ATen/ATen.h>

#include <vector>

namespace patchflow {

Tensor HaloExchange::WithHalo(const Tensor& x_BChw, int64_t rows) {
  using Kind = Communicator::Transfer::Kind;
  const int64_t h = x_BChw.size(2);
  TORCH_CHECK(h >= rows, "rank ", ranks_.rank(), " holds ", h, " rows and is asked for ", rows);
  // Rows first: a run of rows is dense, whichever it is.
  const Tensor out_hBWC =
      at::empty({h + 2 * rows, x_BChw.size(0), x_BChw.size(3), x_BChw.size(1)}, x_BChw.options());
  out_hBWC.narrow(0, rows, h).copy_(x_BChw.permute({2, 0, 3, 1}));
  std::vector<Communicator::Transfer> transfers;
  const auto trade = [&](int peer, int64_t own_begin, int64_t halo_begin) {
    if (peer < 0 || peer >= ranks_.size()) {
      out_hBWC.narrow(0, halo_begin, rows).zero_();
      return;
    }
    transfers.push_back({Kind::kSend, out_hBWC.narrow(0, own_begin, rows), peer});
    transfers.push_back({Kind::kRecv, out_hBWC.narrow(0, halo_begin, rows), peer});
  };
  trade(ranks_.rank() - 1, rows, 0);
  trade(ranks_.rank() + 1, h, rows + h);
  ranks_.Grouped(transfers).Wait();
  return out_hBWC.permute({1, 3, 0, 2});
}

}  // namespace patchflow
