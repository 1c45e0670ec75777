// patchflow-bench cpu: images of a checkpoint made by the engine alone on CPUs, with neither gRPC
// nor a file format: what bench/end_to_end.py's time is without what stands around it.
#include <ATen/ATen.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "bench/commands.h"
#include "bench/report.h"
#include "engine/device.h"
#include "engine/engine.h"

namespace patchflow {
namespace {

struct Options {
  std::string model = "models/shapes-256";
  int size_px = 0;
  int steps = 0;
  int threads = 0;
  int batch = 1;
};

class Patient final : public RequestMonitor {
 public:
  void Enter(Phase) override {}
  void StepsDone(int) override {}
  bool Continue(int) override { return true; }
};

std::unique_ptr<Engine> Load(const std::string& model) {
  auto engine = Engine::Load({.model_dir = model, .device = at::kCPU, .dtype = at::kFloat}, {});
  if (!engine.ok()) throw std::runtime_error(std::string(engine.status().message()));
  return *std::move(engine);
}

ImageRequest RequestFor(const ModelDescription& model, const Options& options) {
  ImageRequest request;
  request.prompt = "a red star on a blue background";
  request.width_px = options.size_px > 0 ? options.size_px : model.default_size_px();
  request.height_px = request.width_px;
  request.steps = options.steps > 0 ? options.steps : model.default_steps;
  request.guidance_scale = model.default_guidance_scale;
  request.scheduler = model.default_scheduler;
  request.batch_size = options.batch;
  for (int n = 1; n < options.batch; ++n) {
    request.beside.push_back({.prompt = "a green triangle beside image " + std::to_string(n),
                              .negative_prompt = "",
                              .seed = static_cast<uint64_t>(n)});
  }
  return request;
}

nlohmann::json Measure(Engine& engine, ImageRequest request, Repeats repeats) {
  std::vector<double> text_ms;
  std::vector<double> denoise_ms;
  std::vector<double> decode_ms;
  std::vector<double> step_ms;
  std::vector<double> batch_ms;
  Patient monitor;
  for (int i = 0; i < repeats.warm_up + repeats.measured; ++i) {
    request.seed = static_cast<uint64_t>(i);
    const absl::StatusOr<Generated> made = engine.Generate(request, monitor);
    if (!made.ok()) throw std::runtime_error(std::string(made.status().message()));
    if (i < repeats.warm_up) continue;
    const PhaseTimes& times = made->times;
    text_ms.push_back(absl::ToDoubleMilliseconds(times.text));
    denoise_ms.push_back(absl::ToDoubleMilliseconds(times.denoise));
    decode_ms.push_back(absl::ToDoubleMilliseconds(times.decode));
    batch_ms.push_back(text_ms.back() + denoise_ms.back() + decode_ms.back());
    for (absl::Duration step : made->step_times) {
      step_ms.push_back(absl::ToDoubleMilliseconds(step));
    }
  }
  const double median_ms = QuantilesOf(batch_ms).median_ms;
  return {{"size_px", request.width_px},
          {"steps", request.steps},
          {"batch", request.batch_size},
          {"text_ms", QuantilesOf(text_ms).median_ms},
          {"denoise_ms", QuantilesOf(denoise_ms).median_ms},
          {"step_ms", QuantilesOf(step_ms).median_ms},
          {"decode_ms", QuantilesOf(decode_ms).median_ms},
          {"image_ms", median_ms / request.batch_size},
          {"images_per_s", 1000.0 * request.batch_size / median_ms}};
}

void Run(const CommonOptions& common, const Options& options) {
  if (options.threads > 0) SetThreadsPerOperation(options.threads);
  const at::Device device = at::kCPU;
  const DeviceThread thread(DeviceThread::MakeStream(device));
  const auto engine = Load(options.model);
  Report report("cpu", device, options.model + ", guidance batch of two, float32",
                {{"size_px", "px"},
                 {"steps", "steps"},
                 {"batch", "batch"},
                 {"text_ms", "text ms"},
                 {"denoise_ms", "denoise ms"},
                 {"step_ms", "step ms", 2},
                 {"decode_ms", "decode ms"},
                 {"image_ms", "image ms"},
                 {"images_per_s", "images/s", 3}});
  report.Row(Measure(*engine, RequestFor(engine->description(), options), common.repeats));
  report.Write(common.json);
}

}  // namespace

void AddCpuCommand(CLI::App& app, const CommonOptions& common) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("cpu", "Images of a checkpoint on CPUs, the engine alone");
  command->add_option("--model", options->model)->capture_default_str();
  command->add_option("--size", options->size_px, "Pixels a side; the model's own by default")
      ->check(CLI::Range(16, 8192));
  command->add_option("--steps", options->steps)->check(CLI::Range(1, 1000));
  command->add_option("--threads", options->threads)->check(CLI::Range(1, 1024));
  command->add_option("--batch", options->batch, "Images made in one pass, of so many prompts")
      ->check(CLI::Range(1, kMaxBatchSize));
  command->callback([&common, options] { Run(common, *options); });
}

}  // namespace patchflow
