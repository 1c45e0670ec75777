#include "parallel/stage_preview.h"

#include <ATen/ATen.h>

namespace patchflow {

void StagePreview::EndStep(int steps_done, const Tensor& share_NSC,
                           const std::function<Tensor()>& x0) {
  if (view_ == nullptr) {
    return;
  }
  if (due_ > 0) {
    const Tensor received_NSC = Receive();
    view_->Show(std::exchange(due_, 0), whole_(received_NSC));
  }
  if (!view_->Wants(steps_done)) {
    return;
  }
  if (alone()) {
    view_->Show(steps_done, whole_(x0()));
  } else if (mesh_.last_stage()) {
    sent_.Wait();
    sent_ = mesh_.stages->Send(x0(), 0);
  } else if (mesh_.first_stage()) {
    due_ = steps_done;
    room_NSC_ = at::empty(share_NSC.sizes(), share_NSC.options());
  }
}

void StagePreview::Finish(bool stopped) {
  if (due_ > 0) {
    const Tensor received_NSC = Receive();
    const int steps_done = std::exchange(due_, 0);
    if (!stopped) {
      view_->Show(steps_done, whole_(received_NSC));
    }
  }
  sent_.Wait();
}

Tensor StagePreview::Receive() {
  Tensor received_NSC = std::exchange(room_NSC_, Tensor());
  mesh_.stages->Recv(received_NSC, mesh_.degrees.stages - 1).Wait();
  return received_NSC;
}

}  // namespace patchflow
