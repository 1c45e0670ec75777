#include <ATen/ATen.h>

#include <array>

#include "engine/denoiser.h"

#ifdef PATCHFLOW_CUDA
#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace patchflow {

#ifdef PATCHFLOW_CUDA

// Waiting leaves the core to other threads. An event that was never recorded is no wait.
struct StepFence::Events {
  static constexpr unsigned kFlags = cudaEventDisableTiming | cudaEventBlockingSync;
  at::cuda::CUDAEvent& Of(int step) { return of_step[step % 2]; }
  std::array<at::cuda::CUDAEvent, 2> of_step{at::cuda::CUDAEvent(kFlags),
                                             at::cuda::CUDAEvent(kFlags)};
};

StepFence::StepFence(at::Device device)
    : events_(device.is_cuda() ? std::make_unique<Events>() : nullptr) {}

void StepFence::Wait(int step) {
  if (events_ != nullptr) {
    events_->Of(step).synchronize();
  }
}

void StepFence::Mark(int step) {
  if (events_ != nullptr) {
    events_->Of(step).record();
  }
}

#else

struct StepFence::Events {};
StepFence::StepFence(at::Device) {}
void StepFence::Wait(int) {}
void StepFence::Mark(int) {}

#endif

StepFence::~StepFence() = default;

}  // namespace patchflow
