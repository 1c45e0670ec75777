// Statistics of the whole image from those of every rank's rows.
#pragma once

#include <functional>
#include <vector>

#include "engine/ports.h"
#include "engine/vae/row_window.h"
#include "parallel/communicator.h"

namespace patchflow {

// Merges by Chan, Golub and LeVeque (1979): M2 = sum M2_i + sum n_i (mean_i - mean)^2, in float32
// and in the order of the ranks, so that all ranks get the same bits. (DistVAE's merged variance
// leaves the second sum out, and shows seams.) One all-gather of [2, B, G] a call, waited for.
// Counts are not sent: they are as the rows. Borrows the ranks.
class MergedMoments final : public Moments {
 public:
  //   rows:   of each rank, in any one resolution of the image.
  //   merged: called once every rank has issued the same operations, after each call; may be empty,
  //           may throw.
  MergedMoments(Communicator& ranks, const std::vector<RowRange>& rows, at::Device device,
                std::function<void()> merged);
  GroupMoments Merge(const GroupMoments& held_here) override;

 private:
  Communicator& ranks_;
  const double own_rows_;
  const double all_rows_;
  const Tensor share_R11_;  // Of each rank in the rows: float32, on the device.
  const std::function<void()> merged_;
};

}  // namespace patchflow
