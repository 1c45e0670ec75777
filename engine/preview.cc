#include "engine/preview.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <memory>
#include <span>

#ifdef PATCHFLOW_CUDA
#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#endif

namespace patchflow {
namespace {

#ifdef PATCHFLOW_CUDA
constexpr unsigned kEventFlags = cudaEventDisableTiming | cudaEventBlockingSync;
#endif

// Values on their way from the device. The copy is not LibTorch's, whose pinned memory, when it is
// freed, records an event on the stream that copied: on the thread that draws, while the rank's own
// captures a step on that stream. So the memory must not be freed before the copy has been made.
class HostCopy {
 public:
  explicit HostCopy(const Tensor& values) {
#ifdef PATCHFLOW_CUDA
    if (values.is_cuda()) {
      const Tensor source = values.contiguous();
      host_ = at::empty(source.sizes(),
                        source.options().device(at::kCPU).pinned_memory(/*pinned=*/true));
      arrival_ = std::make_unique<at::cuda::CUDAEvent>(kEventFlags);
      C10_CUDA_CHECK(cudaMemcpyAsync(host_.mutable_data_ptr(), source.const_data_ptr(),
                                     source.nbytes(), cudaMemcpyDeviceToHost,
                                     c10::cuda::getCurrentCUDAStream(source.device().index())));
      arrival_->record();
      return;
    }
#endif
    host_ = values.clone(at::MemoryFormat::Contiguous);
  }
  HostCopy(const HostCopy&) = delete;
  HostCopy& operator=(const HostCopy&) = delete;

#ifdef PATCHFLOW_CUDA
  ~HostCopy() {
    if (arrival_ != nullptr) C10_CUDA_IGNORE_ERROR(cudaEventSynchronize(arrival_->event()));
  }
#else
  ~HostCopy() = default;
#endif

  std::span<const float> Wait() {
#ifdef PATCHFLOW_CUDA
    if (arrival_ != nullptr) arrival_->synchronize();
#endif
    return {host_.const_data_ptr<float>(), static_cast<size_t>(host_.numel())};
  }

 private:
  Tensor host_;
#ifdef PATCHFLOW_CUDA
  std::unique_ptr<at::cuda::CUDAEvent> arrival_;
#endif
};

}  // namespace

void PreviewView::Show(int steps_done, const Tensor& x0_NSC) {
  if (map_ == nullptr || !request_.show) return;
  request_.show(steps_done,
                [map = map_, grid = grid_, patch_size = patch_size_,
                 max_edge_px = request_.max_edge_px, copy = std::make_shared<HostCopy>(x0_NSC[0])] {
                  return DrawLatents(*map, {copy->Wait(), grid, patch_size}, max_edge_px);
                });
}

bool BatchView::Wants(int steps_done) const {
  return std::any_of(images_.begin(), images_.end(), [&](const auto& image) {
    return image != nullptr && image->Wants(steps_done);
  });
}

void BatchView::Show(int steps_done, const Tensor& x0_NSC) {
  int64_t row = 0;
  for (const auto& image : images_) {
    if (image != nullptr && image->Wants(steps_done)) {
      image->Show(steps_done, x0_NSC.narrow(0, row, 1));
    }
    ++row;
  }
}

}  // namespace patchflow
