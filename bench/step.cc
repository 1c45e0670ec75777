// patchflow-bench step: one denoising step of PixArt-XL/2's shape with random weights on one
// device, guidance batch of two, as the engine's loop runs it.
#include <ATen/ATen.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/commands.h"
#include "bench/random_model.h"
#include "bench/report.h"
#include "bench/step_loop.h"
#include "engine/attention.h"
#include "engine/device.h"
#include "tests/engine/weights/scratch_dir.h"

#ifdef PATCHFLOW_CUDA
#include "bench/kernel_trace.h"
#endif

namespace patchflow {
namespace {

constexpr double kGigabyte = 1e9;
constexpr int64_t kLatentPx = 8;
constexpr int64_t kBatch = 2;

struct Options {
  std::vector<int64_t> sizes_px;
  int64_t blocks = 0;
  int text_tokens = 120;
  std::string attention = "engine";
  std::string model;
  bool fp8 = false;
  bool kernels = false;
  double budget_s = 20;
};

// By what would run without our own kernel, for comparison; cross-attention stays the engine's.
class StockSelfAttention final : public SelfAttention {
 public:
  Tensor Attend(const AttentionInput& in) override {
    AttentionShape shape = AttentionShapeOf(in.q_BSHD, in.k_BSHD);
    shape.hopper = false;
    return SdpaBy(ChooseAttentionKernel(shape), in.q_BSHD, in.k_BSHD, in.v_BSHD);
  }
};

std::unique_ptr<SelfAttention> MakeAttention(const std::string& name) {
  if (name == "stock") return std::make_unique<StockSelfAttention>();
  return std::make_unique<LocalAttention>();
}

std::unique_ptr<Transformer> Load(const CommonOptions& common, const Options& options) {
  const at::Device device = common.at_device();
  const TransformerOptions reading{
      .read = {.device = device, .dtype = options.fp8 ? at::kFloat8_e4m3fn : common.dtype()}};
  const ScratchDir scratch;
  std::filesystem::path dir = std::filesystem::path(options.model) / "transformer";
  if (options.model.empty()) {
    dir = scratch.path();
    PixArtShape shape;
    shape.blocks = options.blocks;
    WriteRandomPixArt(shape, {device, common.dtype()}, dir);
  }
  auto transformer = LoadTransformer(dir, reading);
  if (!transformer.ok()) throw std::runtime_error(std::string(transformer.status().message()));
  return *std::move(transformer);
}

// Of a step: products of the blocks and attention, 2 for each multiplication with its addition.
double FlopOf(const TransformerConfig& config, int64_t tokens, int64_t text_tokens) {
  const auto d = static_cast<double>(config.width());
  const auto p = static_cast<double>(tokens);
  const auto n = static_cast<double>(text_tokens);
  return static_cast<double>(kBatch * config.num_blocks) *
         (28 * p * d * d + 4 * p * p * d + 4 * p * n * d);
}

#ifdef PATCHFLOW_CUDA
using Kernels = std::map<std::string, std::pair<int64_t, double>>;  // Launches, milliseconds.

// Of one step: what two steps run beyond one, without graphs, which run the same kernels.
Kernels KernelsOfAStep(StepLoop& loop) {
  loop.Run({.steps = 2});
  auto one = TraceKernels([&] { loop.Run({.steps = 1}); });
  Kernels kernels;
  for (const auto& [name, times] : TraceKernels([&] { loop.Run({.steps = 2}); })) {
    const int64_t launches = times.launches - one[name].launches;
    if (launches > 0) kernels[name] = {launches, times.ms - one[name].ms};
  }
  return kernels;
}

nlohmann::json JsonOf(const Kernels& kernels) {
  std::vector<std::pair<std::string, std::pair<int64_t, double>>> sorted(kernels.begin(),
                                                                         kernels.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.second.second > b.second.second; });
  nlohmann::json rows = nlohmann::json::array();
  for (const auto& [name, times] : sorted) {
    rows.push_back({{"kernel", name}, {"launches", times.first}, {"ms", times.second}});
  }
  return rows;
}
#endif

void PrintKernels(const nlohmann::json& rows) {
  constexpr size_t kLongestName = 110;
  for (const auto& row : rows) {
    std::printf("    %8.3f ms %5ld x %s\n", row["ms"].get<double>(), row["launches"].get<long>(),
                row["kernel"].get<std::string>().substr(0, kLongestName).c_str());
  }
}

double MedianOfRest(std::vector<double> times_ms, int warm_up) {
  const auto skipped = std::min<size_t>(static_cast<size_t>(warm_up), times_ms.size() - 1);
  times_ms.erase(times_ms.begin(), times_ms.begin() + static_cast<std::ptrdiff_t>(skipped));
  return QuantilesOf(times_ms).median_ms;
}

class StepBench {
 public:
  StepBench(const CommonOptions& common, const Options& options)
      : common_(common),
        options_(options),
        attention_(MakeAttention(options.attention)),
        transformer_(Load(common, options)) {}

  nlohmann::json Measure(int64_t size_px) {
    const TransformerConfig& config = transformer_->config();
    const int64_t side = size_px / kLatentPx / config.patch_size;
    const TokenGrid grid{side, side};
    const LoopLimit limit{common_.repeats.warm_up + common_.repeats.measured, options_.budget_s};
    nlohmann::json row = {{"size_px", size_px}, {"tokens", grid.size()}};
    ResetPeakMemory(common_.at_device());
    StepLoop eager = MakeLoop(grid, CudaGraphs::kNo);
    const double eager_ms = MedianOfRest(eager.Run(limit), common_.repeats.warm_up);
    row["eager_ms"] = eager_ms;
    double best_ms = eager_ms;
    if (common_.on_cuda()) {
      best_ms = MeasureGraphs(grid, limit, row);
      MeasureKernels(eager, best_ms, row);
      row["peak_gb"] = static_cast<double>(MemoryOf(common_.at_device()).peak_bytes) / kGigabyte;
    }
    row["tflops"] = TeraflopPerSecond(FlopOf(config, grid.size(), options_.text_tokens), best_ms);
    return row;
  }

 private:
  StepLoop MakeLoop(TokenGrid grid, CudaGraphs cuda_graphs) const {
    return {*transformer_,        common_.at_device(), grid,
            options_.text_tokens, *attention_,         cuda_graphs};
  }

  double MeasureGraphs(TokenGrid grid, LoopLimit limit, nlohmann::json& row) const {
    StepLoop loop = MakeLoop(grid, CudaGraphs::kYes);
    loop.Run({.steps = 3});  // Captured by the second.
    const std::vector<double> times_ms = loop.Run(limit);
    const double ms = MedianOfRest(times_ms, common_.repeats.warm_up);
    row["graph_ms"] = ms;
    row["graph_times_ms"] = times_ms;
    return ms;
  }

  void MeasureKernels([[maybe_unused]] StepLoop& eager, [[maybe_unused]] double step_ms,
                      [[maybe_unused]] nlohmann::json& row) const {
#ifdef PATCHFLOW_CUDA
    const Kernels kernels = KernelsOfAStep(eager);
    int64_t launches = 0;
    double sum_ms = 0;
    for (const auto& [name, times] : kernels) {
      launches += times.first;
      sum_ms += times.second;
    }
    row["launches"] = launches;
    row["kernels_ms"] = sum_ms;
    row["gap"] = (step_ms - sum_ms) / step_ms;
    row["kernels"] = JsonOf(kernels);
#endif
  }

  const CommonOptions& common_;
  const Options& options_;
  std::unique_ptr<SelfAttention> attention_;
  std::unique_ptr<Transformer> transformer_;
};

void Run(const CommonOptions& common, Options options) {
  const at::Device device = common.at_device();
  const DeviceThread thread(DeviceThread::MakeStream(device));
  const c10::InferenceMode inference;
  if (options.sizes_px.empty()) {
    options.sizes_px =
        device.is_cuda() ? std::vector<int64_t>{512, 1024, 2048, 4096} : std::vector<int64_t>{128};
  }
  if (options.blocks == 0) options.blocks = device.is_cuda() ? 28 : 2;
  StepBench bench(common, options);
  Report report(
      "step", device,
      (options.model.empty() ? "PixArt-XL/2's shape, " + std::to_string(options.blocks) + " blocks"
                             : options.model) +
          (options.fp8 ? ", products of blocks in 8 bits" : "") +
          ", guidance batch of two, self-attention: " + options.attention,
      {{"size_px", "px"},
       {"eager_ms", "eager ms", 2},
       {"graph_ms", "CUDA graph ms", 2},
       {"kernels_ms", "sum of kernels ms", 2},
       {"gap", "launch gap", 3},
       {"launches", "launches"},
       {"tflops", "TFLOP/s", 1},
       {"peak_gb", "peak GB", 2}});
  for (const int64_t size_px : options.sizes_px) {
    const nlohmann::json row = bench.Measure(size_px);
    report.Row(row);
    if (options.kernels && row.contains("kernels")) PrintKernels(row["kernels"]);
  }
  report.Write(common.json);
}

}  // namespace

void AddStepCommand(CLI::App& app, const CommonOptions& common) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("step", "One denoising step, from 512 to 8192 px");
  command->add_option("--sizes", options->sizes_px, "Pixels a side")
      ->delimiter(',')
      ->check(CLI::Range(64, 8192));
  command->add_option("--blocks", options->blocks)->check(CLI::Range(1, 1000));
  command->add_option("--text-tokens", options->text_tokens)
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command
      ->add_option("--attention", options->attention,
                   "Self-attention: the engine's choice, or stock")
      ->check(CLI::IsMember({"engine", "stock"}))
      ->capture_default_str();
  command->add_option("--model", options->model, "A checkpoint instead of random weights");
  command->add_flag("--fp8", options->fp8, "The blocks' products in 8 bits");
  command->add_flag("--kernels", options->kernels, "Print the kernels of a step");
  command->add_option("--budget-s", options->budget_s, "Begin no step after this, for each size")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->callback([&common, options] { Run(common, *options); });
}

}  // namespace patchflow
