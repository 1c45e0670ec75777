#include "bench/layout_steps.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <utility>

#include "absl/status/status.h"
#include "bench/marks.h"
#include "engine/denoiser.h"
#include "engine/device.h"
#include "engine/stream_waits.h"
#include "parallel/methods.h"

namespace patchflow {
namespace {

constexpr int kSamplerSteps = 64;
constexpr int kTextTokens = 300;
constexpr int kLatentPx = 8;
constexpr double kGuidanceScale = 4.5;

template <typename T>
T ValueOf(absl::StatusOr<T> value) {
  if (!value.ok()) throw std::runtime_error(std::string(value.status().message()));
  return *std::move(value);
}

Sampler SamplerOf(int steps, at::Device device) {
  SamplerConfig config;
  config.class_name = "DPMSolverMultistepScheduler";
  return ValueOf(Sampler::Make("dpm-solver++", config, steps)).To(device);
}

// Drawn on the host, so that every device has the same.
DenoiseJob MakeJob(const Transformer& transformer, int64_t size_px, const Sampler& sampler,
                   at::Device device) {
  const TransformerConfig& config = transformer.config();
  const int64_t side = size_px / kLatentPx / config.patch_size;
  const auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(size_px));
  const auto draw = [&](at::IntArrayRef sizes) {
    return at::randn(sizes, generator, at::TensorOptions(at::kFloat)).to(device);
  };
  const Tensor noise_NSC = draw({1, side * side, config.token_width()});
  const Tensor text_BLD = draw({2, kTextTokens, config.caption_width}).to(transformer.dtype());
  const Tensor mask_BL = at::ones({2, kTextTokens}, at::TensorOptions(at::kLong).device(device));
  return {noise_NSC, {side, side}, {text_BLD, mask_BL}, kGuidanceScale, sampler};
}

// Marks the steps, and stops all ranks before the same one.
class CountingMonitor final : public StepMonitor {
 public:
  CountingMonitor(at::Device device, const CountingWorld& world, int steps)
      : world_(world), steps_(steps), marks_(MakeMarks(device)) {}
  bool Continue(int step) override {
    marks_->Set();
    TellWaits();
    const Traffic::Count total = world_.Total();
    sent_bytes_.push_back(total.bytes);
    waited_.push_back(total.time);
    return step < steps_;
  }
  std::vector<double> TimesMs() const { return marks_->Between(); }
  // The most of any step from `first` on.
  int64_t BytesOfAStep(size_t first) const {
    int64_t most = 0;
    for (size_t step = first; step + 1 < sent_bytes_.size(); ++step) {
      most = std::max(most, sent_bytes_[step + 1] - sent_bytes_[step]);
    }
    return most;
  }
  // Of the average step from `first` on. What the device has not passed yet when they begin and end
  // is as much.
  double WaitedMs(size_t first) const {
    const std::chrono::duration<double, std::milli> waited = waited_.back() - waited_[first];
    return waited.count() / static_cast<double>(waited_.size() - 1 - first);
  }

 private:
  const CountingWorld& world_;
  const int steps_;
  const std::unique_ptr<Marks> marks_;
  std::vector<int64_t> sent_bytes_;
  std::vector<std::chrono::nanoseconds> waited_;
};

class EveryStep final : public StepMonitor {
 public:
  bool Continue(int /*step*/) override { return true; }
};

}  // namespace

LayoutSteps::LayoutSteps(const Layout& layout, const std::filesystem::path& transformer_dir,
                         const RankThread& rank)
    : layout_(layout),
      device_(rank.device),
      world_(rank.world),
      member_(layout, world_, ValueOf(ReadTransformerConfig(transformer_dir))) {
  const EnginePorts ports = member_.ports();
  transformer_ = ValueOf(LoadTransformer(
      transformer_dir, {.read = {.device = device_,
                                 .dtype = device_.is_cuda() ? at::kBFloat16 : at::kFloat,
                                 .shard = ports.transformer_shard},
                        .blocks = ports.blocks}));
}

Layout LayoutSteps::LayoutOf(StepPhase phase) const {
  Layout layout = layout_;
  layout.cuda_graphs = phase.cuda_graphs;
  if (!phase.stale) layout.warmup_steps = kSamplerSteps;
  return layout;
}

StepFigures LayoutSteps::Measure(int64_t size_px, StepPhase phase, Repeats repeats) {
  const auto denoiser = MakeDenoiser(*transformer_, LayoutOf(phase), member_.mesh());
  const Sampler sampler = SamplerOf(kSamplerSteps, device_);
  const DenoiseJob job = MakeJob(*transformer_, size_px, sampler, device_);
  const int first = phase.stale ? layout_.warmup_steps + 1 : 1;
  const int warm_up = std::max(repeats.warm_up, first + (phase.cuda_graphs ? 2 : 0));
  CountingMonitor monitor(device_, world_, warm_up + repeats.measured);
  ResetPeakMemory(device_);
  try {
    denoiser->Denoise(job, monitor);
    throw std::runtime_error("the loop ended before it was stopped");
  } catch (const Cancelled&) {
    // As meant.
  }
  std::vector<double> times_ms = monitor.TimesMs();
  times_ms.erase(times_ms.begin(), times_ms.begin() + warm_up);
  return {.time = QuantilesOf(std::move(times_ms)),
          .sent_bytes = monitor.BytesOfAStep(static_cast<size_t>(first)),
          .waited_ms = monitor.WaitedMs(static_cast<size_t>(warm_up)),
          .peak_bytes = MemoryOf(device_).peak_bytes};
}

ImageFigures LayoutSteps::Image(int64_t size_px, StepPhase phase, int steps) {
  const auto denoiser = MakeDenoiser(*transformer_, LayoutOf(phase), member_.mesh());
  const Sampler sampler = SamplerOf(steps, device_);
  const DenoiseJob job = MakeJob(*transformer_, size_px, sampler, device_);
  EveryStep monitor;
  denoiser->Denoise(job, monitor);
  WaitForDevice(device_);
  const auto begin = std::chrono::steady_clock::now();
  ImageFigures image{denoiser->Denoise(job, monitor).cpu()};
  const std::chrono::duration<double, std::milli> passed = std::chrono::steady_clock::now() - begin;
  image.ms = passed.count();
  return image;
}

}  // namespace patchflow
