// Previews of one request: latents of chosen steps leave the device beside the loop, and become
// pictures wherever and whenever somebody draws them.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "engine/denoiser.h"
#include "engine/image/image.h"
#include "engine/latent_map.h"

namespace patchflow {

// A preview that can be drawn, once or never, on any thread, also when its request has ended. Waits
// for the device to have finished the step, and throws c10::Error if that failed. Holds a copy of
// the latents on the host (on GPUs pinned), for which its destruction waits like drawing.
using DrawPreview = std::function<Image()>;

// Of an image. All but `show` must be the same on all ranks of a group.
struct PreviewRequest {
  int every_steps = 0;  // After every so many steps, the last included; 0: none.
  int max_edge_px = 0;  // See DrawLatents().
  // Called by rank 0 on its thread while the loop runs: must not block. Empty: nobody looks.
  std::function<void(int steps_done, DrawPreview draw)> show = nullptr;
};

class PreviewView final : public LatentsView {
 public:
  // Borrows the request. `map`: nullptr on ranks that only take part.
  PreviewView(const PreviewRequest& request, std::shared_ptr<const LatentMap> map, TokenGrid grid,
              int patch_size)
      : request_(request), map_(std::move(map)), grid_(grid), patch_size_(patch_size) {}

  bool Wants(int steps_done) const override { return steps_done % request_.every_steps == 0; }
  // Of one image, [1, S, C]. Enqueues a copy to the host; what it costs the host is the
  // allocation, which the first of a size makes slow on GPUs (pinning: below a millisecond).
  void Show(int steps_done, const Tensor& x0_NSC) override;

 private:
  const PreviewRequest& request_;
  const std::shared_ptr<const LatentMap> map_;
  const TokenGrid grid_;
  const int patch_size_;
};

// Previews of a batch: row n is shown to images[n], which may be nullptr.
class BatchView final : public LatentsView {
 public:
  explicit BatchView(std::vector<std::unique_ptr<LatentsView>> images)
      : images_(std::move(images)) {}
  bool Wants(int steps_done) const override;
  void Show(int steps_done, const Tensor& x0_NSC) override;

 private:
  const std::vector<std::unique_ptr<LatentsView>> images_;
};

}  // namespace patchflow
