// The bundled model's transformer with requests for it.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/denoiser.h"
#include "engine/transformer.h"
#include "tests/engine/golden.h"

namespace patchflow {

inline std::unique_ptr<Transformer> LoadBundledTransformer(const ReadOptions& options = {}) {
  auto transformer = LoadTransformer("models/shapes-256/transformer", {.read = options});
  EXPECT_TRUE(transformer.ok()) << transformer.status();
  return *std::move(transformer);
}

// The checkpoint's own scheduler config, for any sampler.
inline Sampler MakeBundledSampler(std::string_view name, int steps) {
  const auto config = ReadSamplerConfig("models/shapes-256/scheduler");
  EXPECT_TRUE(config.ok()) << config.status();
  auto sampler = Sampler::Make(name, *config, steps);
  EXPECT_TRUE(sampler.ok()) << sampler.status();
  return *std::move(sampler);
}

// A run of tests/golden/pixart.py.
struct GoldenRun {
  std::string name;
  std::string sampler;
  int steps;
  double guidance_scale;
};
inline std::vector<GoldenRun> GoldenRuns() {
  return {{"dpm", "dpm-solver++", 4, 4.5}, {"ddim", "ddim", 3, 1}, {"euler", "euler", 3, 7.5}};
}

struct GoldenRequest {
  explicit GoldenRequest(const GoldenRun& run, at::Device device = at::kCPU)
      : sampler(MakeBundledSampler(run.sampler, run.steps).To(device)),
        job{{}, {}, {}, run.guidance_scale, sampler} {
    const GoldenFile file("pixart/denoised.safetensors");
    const auto get = [&](const char* what) { return file.Get(run.name + "." + what); };
    const Tensor noise = get("noise");
    job.noise_NSC = Patchify(noise, 2).to(device);
    job.grid = {noise.size(2) / 2, noise.size(3) / 2};
    job.prompts = {get("text").to(device), get("mask").to(device)};
    latents_NSC = Patchify(get("latents"), 2);
  }
  GoldenRequest(const GoldenRequest&) = delete;
  GoldenRequest& operator=(const GoldenRequest&) = delete;

  Sampler sampler;
  DenoiseJob job;
  Tensor latents_NSC;  // What diffusers made.
};

class CountingMonitor final : public StepMonitor {
 public:
  explicit CountingMonitor(int stop_at = -1) : stop_at_(stop_at) {}
  bool Continue(int step) override {
    asked_.push_back(step);
    return step != stop_at_;
  }
  const std::vector<int>& asked() const { return asked_; }

 private:
  int stop_at_;
  std::vector<int> asked_;
};

}  // namespace patchflow
