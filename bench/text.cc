// patchflow-bench text: T5 v1.1 XXL's encoder with random weights on one device: at its best it
// reads every weight once.
#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "bench/commands.h"
#include "bench/random_model.h"
#include "bench/report.h"
#include "engine/device.h"
#include "engine/text/text_encoder.h"
#include "tests/engine/weights/scratch_dir.h"

namespace patchflow {
namespace {

constexpr double kGigabyte = 1e9;

struct Options {
  int64_t blocks = 0;
};

std::unique_ptr<TextEncoder> Load(const T5Shape& shape, const CommonOptions& common) {
  const ScratchDir scratch;
  WriteRandomT5(shape, {common.at_device(), common.dtype()}, scratch.path());
  auto encoder =
      LoadTextEncoder(scratch.path(), {.device = common.at_device(), .dtype = common.dtype()});
  if (!encoder.ok()) throw std::runtime_error(std::string(encoder.status().message()));
  return *std::move(encoder);
}

void Run(const CommonOptions& common, const Options& options) {
  const at::Device device = common.at_device();
  const DeviceThread thread(DeviceThread::MakeStream(device));
  const c10::InferenceMode inference;
  T5Shape shape;
  if (!device.is_cuda()) shape = {1, 256, 4, 64, 512, 1000};
  if (options.blocks > 0) shape.blocks = options.blocks;
  const auto encoder = Load(shape, common);
  const double weights_gb = static_cast<double>(encoder->parameter_bytes()) / kGigabyte;
  Report report("text", device,
                "T5 encoder of " + std::to_string(shape.blocks) + " blocks, width " +
                    std::to_string(shape.width),
                {{"batch", "batch"},
                 {"tokens", "tokens"},
                 {"ms", "ms", 2},
                 {"weights_gb", "weights GB", 2},
                 {"gb_per_s", "weights GB/s", 0}});
  LocalSum sum;
  for (const int64_t batch : {1, 2}) {
    for (const int64_t tokens : {120, 300}) {
      const auto options_long = at::TensorOptions().device(device).dtype(at::kLong);
      const Tensor ids = at::randint(shape.vocabulary, {batch, tokens}, options_long);
      const Tensor mask = at::ones({batch, tokens}, options_long);
      const double ms = TimeOf(
                            device, [&] { encoder->Encode(ids, mask, sum); }, common.repeats)
                            .median_ms;
      report.Row({{"batch", batch},
                  {"tokens", tokens},
                  {"ms", ms},
                  {"weights_gb", weights_gb},
                  {"gb_per_s", weights_gb / ms * 1e3}});
    }
  }
  report.Write(common.json);
}

}  // namespace

void AddTextCommand(CLI::App& app, const CommonOptions& common) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("text", "T5-XXL's encoder");
  command->add_option("--blocks", options->blocks)->check(CLI::Range(1, 1000));
  command->callback([&common, options] { Run(common, *options); });
}

}  // namespace patchflow
