// What a pipeline shows of an image that forms: from its last stage, which steps the sampler, to
// its first, which has rank 0.
#pragma once

#include <functional>
#include <utility>

#include "engine/denoiser.h"
#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace patchflow {

// One for each request and rank, used by the rank's thread. All patches of what is shown after step
// t are of step t: the last stage has stepped all of them when it ends the step. What it sends then
// is taken by the first stage when that ends its next step, for which it has already received
// everything of step t: so nothing waits for a preview. The first stage shows it, so one step late.
class StagePreview {
 public:
  // Latents of this rank's share of the tokens, [N, S, C], to those of the whole image in raster
  // order; a collective of the sequence axis of one stage.
  using Whole = std::function<Tensor(const Tensor& share_NSC)>;
  // Borrows mesh and view, which may be nullptr: then nothing is shown.
  StagePreview(const Mesh& mesh, LatentsView* view, Whole whole)
      : mesh_(mesh), view_(view), whole_(std::move(whole)) {}

  // After each step, on every stage. `x0`: a tensor of its own with the sampler's data predictions
  // of the share; called on the last stage only. `share_NSC`: any tensor of the share's shape.
  void EndStep(int steps_done, const Tensor& share_NSC, const std::function<Tensor()>& x0);
  // After the last step, or when all stages stopped before the same step: then what is under way is
  // taken but not shown.
  void Finish(bool stopped);

 private:
  bool alone() const { return mesh_.degrees.stages == 1; }
  Tensor Receive();

  const Mesh& mesh_;
  LatentsView* const view_;
  const Whole whole_;
  Pending sent_;     // The last stage's newest.
  int due_ = 0;      // The first stage's: steps done of what is under way; 0 if nothing is.
  Tensor room_NSC_;  // For what is due.
};

}  // namespace patchflow
