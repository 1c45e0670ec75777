#include "engine/denoiser.h"

#include <ATen/ATen.h>

#include <utility>

#include "engine/loop_graphs.h"

namespace patchflow {
namespace {

// A pure function of device memory.
void EnqueueStep(const LoopParts& parts, LoopMemory& memory) {
  const StepContext context{*memory.conditioning, memory.step, parts.span, parts.attention,
                            parts.tensor_axis};
  const Tensor input_NSC = memory.sampler->ScaleInput(memory.step, memory.x_NSC);
  Tensor h_BSE = parts.transformer.Embed(parts.guidance.Expand(input_NSC), context);
  h_BSE = parts.transformer.RunBlocks(parts.transformer.blocks(), std::move(h_BSE), context);
  const Tensor eps_NSC = parts.guidance.Combine(parts.transformer.Project(h_BSE, context));
  memory.x_NSC.copy_(memory.sampler->Step(memory.step, memory.x_NSC, eps_NSC, memory.state));
  memory.step.add_(1);
}

void AskToContinue(int step, StepMonitor& monitor) {
  if (!monitor.Continue(step)) {
    throw Cancelled();
  }
}

class SerialDenoiser final : public Denoiser {
 public:
  SerialDenoiser(const Transformer& transformer, CudaGraphs cuda_graphs)
      : transformer_(transformer), cuda_graphs_(cuda_graphs) {}

  Tensor Denoise(const DenoiseJob& job, StepMonitor& monitor) override {
    LocalGuidance guidance(job.guidance_scale);
    const auto conditioning =
        transformer_.Prepare(job.prompts, job.grid, job.sampler.timesteps(), {});
    return DenoiseSpan(job,
                       {.transformer = transformer_,
                        .conditioning = *conditioning,
                        .attention = attention_,
                        .tensor_axis = sum_,
                        .guidance = guidance,
                        .span = {0, job.grid.size()},
                        .graphs = cuda_graphs_ == CudaGraphs::kYes ? &graphs_ : nullptr},
                       monitor);
  }

 private:
  const Transformer& transformer_;
  CudaGraphs cuda_graphs_;
  LocalAttention attention_;
  LocalSum sum_;
  LoopGraphs graphs_;
};

}  // namespace

Tensor DenoiseSpan(const DenoiseJob& job, const LoopParts& parts, StepMonitor& monitor) {
  const at::Device device = job.noise_NSC.device();
  LoopGraphs* const graphs = device.is_cuda() ? parts.graphs : nullptr;
  LoopMemory own;
  if (graphs == nullptr) {
    own = MakeLoopMemory(job, parts);
    StartLoop(job, parts, own);
  }
  LoopMemory& memory = graphs == nullptr ? own : graphs->Begin(job, parts);
  StepFence fence(device);
  const int steps = job.sampler.num_steps();
  for (int step = 0; step < steps; ++step) {
    fence.Wait(step);
    AskToContinue(step, monitor);
    if (parts.begin_step) {
      parts.begin_step(step);
    }
    if (graphs == nullptr) {
      EnqueueStep(parts, memory);
    } else {
      graphs->Run(parts.phase ? parts.phase(step) : 0, [&] { EnqueueStep(parts, memory); });
    }
    if (job.view != nullptr && job.view->Wants(step + 1)) {
      const Tensor& x0_NSC = memory.state.previous_x0_NSC;
      job.view->Show(step + 1, parts.whole ? parts.whole(x0_NSC) : x0_NSC);
    }
    fence.Mark(step);
  }
  fence.Wait(steps + 1);
  AskToContinue(steps, monitor);
  // The memory of graphs is overwritten by the next request.
  return graphs == nullptr ? memory.x_NSC : memory.x_NSC.clone();
}

std::unique_ptr<Denoiser> MakeSerialDenoiser(const Transformer& transformer,
                                             CudaGraphs cuda_graphs) {
  return std::make_unique<SerialDenoiser>(transformer, cuda_graphs);
}

}  // namespace patchflow
