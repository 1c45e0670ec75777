// The memory of a denoising loop, and its steps as CUDA graphs that serve request after request.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <list>
#include <map>
#include <memory>

#include "engine/denoiser.h"
#include "engine/step_graph.h"

namespace patchflow {

// What the kernels of a step read and write, besides weights and what ports hold.
struct LoopMemory {
  const Conditioning* conditioning = nullptr;
  const Sampler* sampler = nullptr;
  Tensor step;   // int64 [1]
  Tensor x_NSC;  // float32, the tokens of the span.
  SamplerState state;
};
// Over the conditioning and the sampler of the request itself.
LoopMemory MakeLoopMemory(const DenoiseJob& job, const LoopParts& parts);
// Step 0: noise of the span, no history.
void StartLoop(const DenoiseJob& job, const LoopParts& parts, LoopMemory& memory);

// From now on every denoiser of the process keeps what it captured for so many kinds of requests at
// least, those used last; each holds device memory of its own: latents, conditioning and, in stale
// methods, keys and values. Thread-safe.
void KeepKinds(size_t kinds);
// The larger one of that and `least`.
size_t KeptKinds(size_t least);

// Captured steps of one denoiser. A request that differs from an earlier one in nothing but numbers
// (not in sizes, sampler, span or guidance scale) replays what was captured for that one. The
// four kinds used last, or KeptKinds(), are kept, each with the loop's memory and copies of
// conditioning and sampler, which are overwritten by those of the request. Transformer and ports
// must be the same from call to call. One rank thread; destroy it before communicators that it
// captured.
class LoopGraphs {
 public:
  LoopGraphs();
  ~LoopGraphs();

  // The memory for a request of this kind, valid until the next call, with the request's numbers in
  // it.
  LoopMemory& Begin(const DenoiseJob& job, const LoopParts& parts);
  // A step of the request begun last. `enqueue` works on its memory; see StepGraph::Run.
  void Run(int phase, const std::function<void()>& enqueue);

 private:
  struct Kind;
  GraphPool pool_;
  std::list<Kind> kinds_;  // Used last first.
};

}  // namespace patchflow
