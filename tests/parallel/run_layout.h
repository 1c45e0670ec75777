// One small job, made on the ranks of a layout.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/denoiser.h"
#include "engine/engine.h"
#include "parallel/layout.h"
#include "tests/parallel/run_ranks.h"

namespace patchflow {

// What an image is made from. Owns what DenoiseJob borrows.
struct TestJob {
  Tensor noise_NSC;
  TokenGrid grid;
  Prompt prompts;
  double guidance_scale = 1;
  Sampler sampler;

  DenoiseJob job() const { return {noise_NSC, grid, prompts, guidance_scale, sampler}; }
  TestJob To(at::Device device) const;
};

struct JobOptions {
  TokenGrid grid{6, 8};
  std::string_view scheduler = "dpm-solver++";
  int steps = 6;
  double guidance_scale = 2;
  int images = 1;
  uint64_t seed = 7;
};
// The first step has less noise to remove, and guidance amplifies less, than is usual: with a scale
// of 4.5 and a beta_end of 0.02 the loop of one device is itself 1e-4 from what float64 gives, and
// sums in another order could not be told from mistakes.
TestJob MakeTestJob(const TransformerConfig& model, const JobOptions& options);

// Always goes on, or stops before a step.
class TestMonitor final : public StepMonitor {
 public:
  explicit TestMonitor(int stop_at = -1) : stop_at_(stop_at) {}
  bool Continue(int step) override { return step != stop_at_; }

 private:
  int stop_at_;
};

// Makes a rank's transformer on its device from ports.transformer_shard and ports.blocks.
using TestModel = std::function<std::unique_ptr<Transformer>(const EnginePorts&, at::Device)>;

// The job on one device by the engine's own loop, on the host.
Tensor RunSerial(const TestModel& model, const TestJob& job);
struct TestRequest {
  TestJob job;
  int stop_at = -1;  // Cancelled before this step.
};
// By the layout's method, one after the other on the same denoisers; fails if the ranks don't agree
// to the bit. On the host; undefined for those that all ranks stopped.
std::vector<Tensor> RunRequests(const Layout& layout, const TransformerConfig& config,
                                const TestModel& model, const std::vector<TestRequest>& requests,
                                const RunOptions& options = {});
Tensor RunLayout(const Layout& layout, const TransformerConfig& config, const TestModel& model,
                 const TestJob& job, const RunOptions& options = {});

// Largest difference over the largest magnitude of `expected`; 1 for other shapes or non-finite
// values.
double RelativeError(const Tensor& actual, const Tensor& expected);

}  // namespace patchflow
