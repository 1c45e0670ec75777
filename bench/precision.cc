// patchflow-bench precision: what narrow dtypes do to the final latents of an image: PixArt-XL/2's
// shape with random weights, or a checkpoint, random text, guidance batch of two, one GPU.
#include <ATen/ATen.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bench/commands.h"
#include "bench/psnr.h"
#include "bench/random_model.h"
#include "bench/report.h"
#include "engine/denoiser.h"
#include "engine/device.h"
#include "tests/engine/weights/scratch_dir.h"

namespace patchflow {
namespace {

constexpr int64_t kLatentPx = 8;
constexpr int64_t kTextTokens = 120;
constexpr double kGuidanceScale = 4.5;
constexpr std::pair<const char*, at::ScalarType> kDtypes[] = {
    {"float32", at::kFloat},  // Products in TF32.
    {"bfloat16", at::kBFloat16},
    {"float8", at::kFloat8_e4m3fn}};

struct Options {
  std::vector<int64_t> sizes_px = {1024};
  std::string model;
  int steps = 20;
  int images = 3;
};

class EveryStep final : public StepMonitor {
 public:
  bool Continue(int /*step*/) override { return true; }
};

template <class T>
T ValueOf(absl::StatusOr<T> value) {
  if (!value.ok()) throw std::runtime_error(std::string(value.status().message()));
  return *std::move(value);
}

Sampler MakeSampler(int steps, at::Device device) {
  SamplerConfig config;
  config.class_name = "DPMSolverMultistepScheduler";
  return ValueOf(Sampler::Make("dpm-solver++", config, steps)).To(device);
}

// The same numbers for every dtype.
Tensor LatentsOf(const Transformer& transformer, int64_t size_px, uint64_t seed,
                 const Sampler& sampler, at::Device device) {
  const TransformerConfig& config = transformer.config();
  const int64_t side = size_px / kLatentPx / config.patch_size;
  const auto options = at::TensorOptions().device(device);
  at::manual_seed(seed);
  const DenoiseJob job{
      at::randn({1, side * side, config.token_width()}, options),
      {side, side},
      {at::randn({2, kTextTokens, config.caption_width}, options).to(at::kBFloat16),
       at::ones({2, kTextTokens}, options.dtype(at::kLong))},
      kGuidanceScale,
      sampler};
  EveryStep monitor;
  return MakeSerialDenoiser(transformer)->Denoise(job, monitor).cpu();
}

// By size and image.
std::vector<std::vector<Tensor>> AllLatents(const std::filesystem::path& dir, at::ScalarType dtype,
                                            const Options& options, at::Device device) {
  const auto transformer =
      ValueOf(LoadTransformer(dir, {.read = {.device = device, .dtype = dtype}}));
  const Sampler sampler = MakeSampler(options.steps, device);
  std::vector<std::vector<Tensor>> latents;
  for (const int64_t size_px : options.sizes_px) {
    latents.emplace_back();
    for (int image = 0; image < options.images; ++image) {
      latents.back().push_back(LatentsOf(*transformer, size_px, image, sampler, device));
    }
  }
  return latents;
}

nlohmann::json RowOf(const std::vector<Tensor>& narrow, const std::vector<Tensor>& wide) {
  std::vector<double> values_db;
  for (size_t i = 0; i < narrow.size(); ++i) values_db.push_back(PsnrDb(narrow[i], wide[i]));
  const auto least = std::min_element(values_db.begin(), values_db.end());
  return {{"median_db", QuantilesOf(values_db).median_ms}, {"lowest_db", *least}};
}

void Run(const CommonOptions& common, const Options& options) {
  if (!common.on_cuda()) {
    throw CLI::ValidationError("--device", "cpu: CPUs compute in float32 alone");
  }
  const at::Device device = common.at_device();
  const DeviceThread thread(DeviceThread::MakeStream(device));
  const c10::InferenceMode inference;
  const ScratchDir scratch;
  std::filesystem::path dir = std::filesystem::path(options.model) / "transformer";
  if (options.model.empty()) {
    dir = scratch.path();
    WriteRandomPixArt({}, {device, at::kBFloat16}, dir);
  }
  Report report("precision", device,
                (options.model.empty() ? "PixArt-XL/2's shape" : options.model) +
                    ", final latents after " + std::to_string(options.steps) + " steps",
                {{"size_px", "px"},
                 {"dtype", "dtype"},
                 {"against", "against"},
                 {"median_db", "median dB"},
                 {"lowest_db", "lowest dB"}});
  std::map<std::string, std::vector<std::vector<Tensor>>> latents;
  for (const auto& [name, dtype] : kDtypes) {
    latents[name] = AllLatents(dir, dtype, options, device);
  }
  for (size_t i = 0; i < options.sizes_px.size(); ++i) {
    for (const auto& [narrow, wide] :
         {std::pair{"bfloat16", "float32"}, {"float8", "float32"}, {"float8", "bfloat16"}}) {
      nlohmann::json row = RowOf(latents[narrow][i], latents[wide][i]);
      row.update({{"size_px", options.sizes_px[i]}, {"dtype", narrow}, {"against", wide}});
      report.Row(row);
    }
  }
  report.Write(common.json);
}

}  // namespace

void AddPrecisionCommand(CLI::App& app, const CommonOptions& common) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("precision", "Final latents by dtype, on GPUs");
  command->add_option("--sizes", options->sizes_px, "Pixels a side")
      ->delimiter(',')
      ->check(CLI::Range(64, 8192))
      ->capture_default_str();
  command->add_option("--model", options->model, "A checkpoint instead of random weights");
  command->add_option("--steps", options->steps)->check(CLI::Range(1, 1000))->capture_default_str();
  command->add_option("--images", options->images)
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->callback([&common, options] { Run(common, *options); });
}

}  // namespace patchflow
