#include "bench/step_loop.h"

#include <ATen/ATen.h>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>

#include "bench/marks.h"

namespace patchflow {
namespace {

constexpr int kSamplerSteps = 64;
constexpr double kGuidanceScale = 4.5;
constexpr int kFewestSteps = 3;

Sampler MakeSampler(at::Device device) {
  SamplerConfig config;
  config.class_name = "DPMSolverMultistepScheduler";
  const auto sampler = Sampler::Make("dpm-solver++", config, kSamplerSteps);
  if (!sampler.ok()) throw std::runtime_error(std::string(sampler.status().message()));
  return sampler->To(device);
}

class LimitedMonitor final : public StepMonitor {
 public:
  explicit LimitedMonitor(LoopLimit limit) : limit_(limit) {}
  bool Continue(int step) override {
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin_;
    return step < limit_.steps && (step < kFewestSteps || passed.count() < limit_.budget_s);
  }

 private:
  LoopLimit limit_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

Prompt RandomPrompt(const TransformerConfig& config, int text_tokens, at::Device device,
                    at::ScalarType dtype) {
  const auto options = at::TensorOptions().device(device);
  return {at::randn({2, text_tokens, config.caption_width}, options.dtype(dtype)),
          at::ones({2, text_tokens}, options.dtype(at::kLong))};
}

DenoiseJob MakeJob(const Transformer& transformer, TokenGrid grid, int text_tokens,
                   const Sampler& sampler, at::Device device) {
  const TransformerConfig& config = transformer.config();
  return {at::randn({1, grid.size(), config.token_width()}, at::TensorOptions().device(device)),
          grid, RandomPrompt(config, text_tokens, device, transformer.dtype()), kGuidanceScale,
          sampler};
}

}  // namespace

StepLoop::StepLoop(const Transformer& transformer, at::Device device, TokenGrid grid,
                   int text_tokens, SelfAttention& attention, CudaGraphs cuda_graphs)
    : transformer_(transformer),
      device_(device),
      sampler_(MakeSampler(device_)),
      job_(MakeJob(transformer, grid, text_tokens, sampler_, device_)),
      conditioning_(transformer.Prepare(job_.prompts, grid, sampler_.timesteps(), {})),
      attention_(attention),
      cuda_graphs_(cuda_graphs),
      guidance_(kGuidanceScale) {}

std::vector<double> StepLoop::Run(LoopLimit limit) {
  const std::unique_ptr<Marks> marks = MakeMarks(device_);
  LimitedMonitor monitor(limit);
  try {
    DenoiseSpan(job_,
                {.transformer = transformer_,
                 .conditioning = *conditioning_,
                 .attention = attention_,
                 .tensor_axis = sum_,
                 .guidance = guidance_,
                 .span = {0, job_.grid.size()},
                 .begin_step = [&](int) { marks->Set(); },
                 .graphs = cuda_graphs_ == CudaGraphs::kYes ? &graphs_ : nullptr},
                monitor);
  } catch (const Cancelled&) {
    // As meant.
  }
  marks->Set();
  return marks->Between();
}

}  // namespace patchflow
