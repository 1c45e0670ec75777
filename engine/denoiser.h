// The loop over the steps, and what may replace it on many devices.
#pragma once

#include <ATen/core/Tensor.h>

#include <exception>
#include <functional>
#include <memory>

#include "engine/sampler.h"
#include "engine/transformer.h"

namespace patchflow {

class LoopGraphs;

// The outside's hold on a running loop.
class StepMonitor {
 public:
  virtual ~StepMonitor() = default;
  // Asked by every rank before it enqueues `step` (0 .. num_steps - 1; and once with num_steps when
  // the last step has been finished). True to go on. All ranks of a group get the same answer for
  // the same step, however late they ask. Called when the device has finished step - 2 at the
  // latest, so that progress and cancellation keep up with it.
  virtual bool Continue(int step) = 0;
};

// Thrown out of Denoise when Continue() said no. The group stays usable.
class Cancelled : public std::exception {
 public:
  const char* what() const noexcept override { return "cancelled"; }
};

// Looks at an image while it forms.
class LatentsView {
 public:
  virtual ~LatentsView() = default;
  // Whether to be shown what there is after `steps_done`, 1 .. num_steps. The same on all ranks of
  // a group, since they gather it together.
  virtual bool Wants(int steps_done) const = 0;
  // x0_NSC: what the sampler expects the end to be, by the step that was the last of `steps_done`:
  // float32, tokens of the whole image in raster order, on the device. Only what is enqueued on the
  // current stream during the call may read it. Called in the order of steps on every rank that has
  // it, rank 0 among them. Must not block.
  virtual void Show(int steps_done, const Tensor& x0_NSC) = 0;
};

struct DenoiseJob {
  // float32, N(0, 1), of the whole image, on the device. Denoise: in raster order. DenoiseSpan: in
  // the order of its conditioning.
  Tensor noise_NSC;
  TokenGrid grid;
  // [negative rows, positive rows] when guidance_scale != 1, positive rows alone otherwise.
  Prompt prompts;
  double guidance_scale = 1;
  const Sampler& sampler;  // On the device.
  // Nobody looks: nullptr. It changes nothing of the latents that are returned.
  LatentsView* view = nullptr;
};

// One way of running the loop over a group of devices: a parallel method. One rank thread owns it.
class Denoiser {
 public:
  virtual ~Denoiser() = default;
  // Final latents of the whole image in raster order, float32 [N, S, C], on
  // every rank. Collective. Throws Cancelled, c10::Error and what communicators throw; after any
  // throw but Cancelled the group is unusable.
  virtual Tensor Denoise(const DenoiseJob& job, StepMonitor& monitor) = 0;
};

// The loop for tokens that stay on one rank from the first step to the last: serial, tensor
// parallel, guidance split, Ulysses, ring, DistriFusion. Returns the final latents of `span` of
// job.noise_NSC, both in the order of `conditioning`. Throws what Denoiser::Denoise does.
struct LoopParts {
  const Transformer& transformer;
  const Conditioning& conditioning;
  SelfAttention& attention;
  PartialSum& tensor_axis;
  Guidance& guidance;
  TokenSpan span;
  // Told each step's number before its kernels are enqueued, or replayed. May be empty.
  std::function<void(int step)> begin_step = {};
  // Steps of one phase enqueue the same kernels. Empty: all do.
  std::function<int(int step)> phase = {};
  // Steps run as CUDA graphs of this. nullptr, and always on CPUs: kernels are enqueued one by one.
  LoopGraphs* graphs = nullptr;
  // Tokens of the span to those of the whole image, in raster order: a collective, outside graphs,
  // for job.view. Empty: the span is the whole.
  std::function<Tensor(const Tensor& own_NSC)> whole = {};
};
Tensor DenoiseSpan(const DenoiseJob& job, const LoopParts& parts, StepMonitor& monitor);

// Bounds how far the host runs ahead of the device: Wait(step) returns when the device has finished
// step - 2. On CPUs it does nothing.
class StepFence {
 public:
  explicit StepFence(at::Device device);
  ~StepFence();
  void Wait(int step);
  void Mark(int step);  // After the step's last kernel is enqueued.

 private:
  struct Events;
  std::unique_ptr<Events> events_;
};

enum class CudaGraphs { kNo, kYes };
std::unique_ptr<Denoiser> MakeSerialDenoiser(const Transformer& transformer,
                                             CudaGraphs cuda_graphs = CudaGraphs::kYes);

}  // namespace patchflow
