#include "engine/loop_graphs.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <vector>

namespace patchflow {
namespace {

constexpr size_t kKeptKinds = 4;
std::atomic<size_t> asked_for_kinds = 0;

bool HaveOneShape(const std::vector<Tensor>& some, const std::vector<Tensor>& others) {
  return std::equal(some.begin(), some.end(), others.begin(), others.end(),
                    [](const Tensor& a, const Tensor& b) {
                      return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type();
                    });
}

}  // namespace

struct LoopGraphs::Kind {
  Kind(const DenoiseJob& job, const LoopParts& parts)
      : span(parts.span),
        guidance_scale(job.guidance_scale),
        conditioning(parts.conditioning.Clone()),
        sampler(job.sampler.Clone()),
        memory(MakeLoopMemory(job, parts)) {
    memory.conditioning = conditioning.get();
    memory.sampler = &sampler;
  }
  Kind(const Kind&) = delete;
  Kind& operator=(const Kind&) = delete;

  bool Serves(const DenoiseJob& job, const LoopParts& parts) const {
    return span == parts.span && guidance_scale == job.guidance_scale &&
           memory.x_NSC.size(0) == job.noise_NSC.size(0) &&
           memory.x_NSC.size(2) == job.noise_NSC.size(2) &&
           sampler.RunsTheSameKernels(job.sampler) &&
           HaveOneShape(conditioning->tensors(), parts.conditioning.tensors());
  }

  void Take(const DenoiseJob& job, const LoopParts& parts) {
    const std::vector<Tensor> mine = conditioning->tensors();
    const std::vector<Tensor> given = parts.conditioning.tensors();
    for (size_t i = 0; i < mine.size(); ++i) {
      mine[i].copy_(given[i]);
    }
    sampler.CopyTable(job.sampler);
  }

  TokenSpan span;
  double guidance_scale;
  std::unique_ptr<Conditioning> conditioning;
  Sampler sampler;
  LoopMemory memory;
  std::map<int, StepGraph> graphs;  // By phase.
};

LoopMemory MakeLoopMemory(const DenoiseJob& job, const LoopParts& parts) {
  const auto options = job.noise_NSC.options().dtype(at::kFloat);
  const std::vector<int64_t> sizes = {job.noise_NSC.size(0), parts.span.size(),
                                      job.noise_NSC.size(2)};
  return {&parts.conditioning,
          &job.sampler,
          at::empty({1}, options.dtype(at::kLong)),
          at::empty(sizes, options),
          {at::empty(sizes, options)}};
}

void StartLoop(const DenoiseJob& job, const LoopParts& parts, LoopMemory& memory) {
  memory.step.zero_();
  memory.x_NSC.copy_(job.noise_NSC.narrow(1, parts.span.begin, parts.span.size()));
  memory.x_NSC.mul_(job.sampler.initial_noise_scale());
  memory.state.previous_x0_NSC.zero_();
}

void KeepKinds(size_t kinds) { asked_for_kinds = kinds; }

size_t KeptKinds(size_t least) { return std::max<size_t>(least, asked_for_kinds); }

LoopGraphs::LoopGraphs() = default;
LoopGraphs::~LoopGraphs() = default;

LoopMemory& LoopGraphs::Begin(const DenoiseJob& job, const LoopParts& parts) {
  const auto found = std::find_if(kinds_.begin(), kinds_.end(),
                                  [&](const Kind& kind) { return kind.Serves(job, parts); });
  if (found == kinds_.end()) {
    while (kinds_.size() >= KeptKinds(kKeptKinds)) {
      kinds_.pop_back();
    }
    kinds_.emplace_front(job, parts);
  } else {
    kinds_.splice(kinds_.begin(), kinds_, found);
    kinds_.front().Take(job, parts);
  }
  StartLoop(job, parts, kinds_.front().memory);
  return kinds_.front().memory;
}

void LoopGraphs::Run(int phase, const std::function<void()>& enqueue) {
  kinds_.front().graphs.try_emplace(phase, pool_).first->second.Run(enqueue);
}

}  // namespace patchflow
