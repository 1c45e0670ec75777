// The denoising loop as the engine runs it, cut short and timed step by step.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "engine/denoiser.h"
#include "engine/loop_graphs.h"
#include "engine/ports.h"

namespace patchflow {

struct LoopLimit {
  int steps = 25;         // At most; and no more than the sampler has.
  double budget_s = 1e9;  // No step is begun after this, but for the first three.
};

// One request of a guidance batch of two on one device. Keeps its CUDA graphs from run to run.
class StepLoop {
 public:
  StepLoop(const Transformer& transformer, at::Device device, TokenGrid grid, int text_tokens,
           SelfAttention& attention, CudaGraphs cuda_graphs);

  // Milliseconds of each step: from where it was begun to where the next one was.
  std::vector<double> Run(LoopLimit limit);

 private:
  const Transformer& transformer_;
  at::Device device_;
  Sampler sampler_;
  DenoiseJob job_;
  std::unique_ptr<Conditioning> conditioning_;
  SelfAttention& attention_;
  CudaGraphs cuda_graphs_;
  LocalSum sum_;
  LocalGuidance guidance_;
  LoopGraphs graphs_;
};

}  // namespace patchflow
