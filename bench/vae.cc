// Decoding at Stable Diffusion's size with random weights on one GPU: milliseconds, and peak memory
// over weights and output.
#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/random_vae.h"
#include "bench/report.h"
#include "bench/timing.h"
#include "bench/vae_parts.h"
#include "bench/vae_ranks.h"
#include "engine/device.h"
#include "engine/vae/decoder.h"
#include "tests/engine/weights/scratch_dir.h"

namespace patchflow {
namespace {

constexpr double kGigabyte = 1e9;
constexpr int kScale = 8;

struct Options {
  std::vector<int64_t> sizes_px = {1024, 2048, 4096, 8192};
  std::string dtype = "bf16";
  int64_t workspace_mib = VaeOptions{}.workspace_bytes >> 20;
  int64_t parts_px = 0;
  int ranks = 1;
  bool tune_cudnn = false;
  std::string json;
};

Repeats RepeatsAt(int64_t size_px) {
  if (size_px <= 2048) return {.warm_up = 3, .measured = 15};
  return size_px <= 4096 ? Repeats{.warm_up = 2, .measured = 5}
                         : Repeats{.warm_up = 1, .measured = 3};
}

VaeOptions OptionsOn(const Options& options, at::Device device) {
  VaeOptions vae;
  vae.read.device = device;
  vae.read.dtype = options.dtype == "bf16" ? at::kBFloat16 : at::kHalf;
  vae.workspace_bytes = options.workspace_mib << 20;
  return vae;
}

std::unique_ptr<VaeDecoder> Load(const std::filesystem::path& dir, const VaeOptions& options) {
  auto decoder = LoadVaeDecoder(dir, options);
  if (!decoder.ok()) throw std::runtime_error(std::string(decoder.status().message()));
  return *std::move(decoder);
}

nlohmann::json Measure(const VaeDecoder& decoder, int64_t size_px, at::Device device) {
  const int64_t side = size_px / kScale;
  const Tensor latents = at::randn({1, 4, side, side}, device);
  int tiles = 0;
  ResetPeakMemory(device);
  const int64_t before = MemoryOf(device).used_bytes;
  int64_t output_bytes = 0;
  {
    const Tensor pixels = DecodeWhole(decoder, latents, [&] { ++tiles; });
    output_bytes = static_cast<int64_t>(pixels.nbytes());
    if (!at::isfinite(pixels.narrow(2, 0, kScale)).all().item<bool>()) {
      throw std::runtime_error("pixels are not finite");
    }
  }
  const double ms = TimeOf(
                        device, [&] { DecodeWhole(decoder, latents, {}); }, RepeatsAt(size_px))
                        .median_ms;
  const int64_t peak_bytes = MemoryOf(device).peak_bytes - before - output_bytes;
  return {{"size_px", size_px},
          {"gpus", 1},
          {"ms", ms},
          {"tiles", tiles},
          {"peak_gb", static_cast<double>(peak_bytes) / kGigabyte},
          {"planned_gb",
           static_cast<double>(decoder.PeakBytes(side, side) - output_bytes) / kGigabyte}};
}

// Peak memory is of the rank that has most: rank 0, which gathers the pixels.
nlohmann::json MeasureRanks(int ranks, const std::filesystem::path& dir, const VaeOptions& vae,
                            int64_t size_px) {
  const RanksDecode found = DecodeOnGpus(ranks, dir, vae, size_px, RepeatsAt(size_px));
  const auto element_bytes = static_cast<int64_t>(c10::elementSize(vae.read.dtype));
  const int64_t output_bytes = size_px * size_px * 3 * element_bytes;
  return {{"size_px", size_px},
          {"gpus", ranks},
          {"ms", found.ms},
          {"peak_gb", static_cast<double>(found.peak_bytes - output_bytes) / kGigabyte}};
}

void Run(const Options& options) {
  const at::Device device(at::kCUDA, 0);
  const DeviceThread thread(DeviceThread::MakeStream(device));
  at::globalContext().setBenchmarkCuDNN(options.tune_cudnn);
  const ScratchDir dir;
  WriteRandomVae(dir.path());
  const VaeOptions vae = OptionsOn(options, device);
  const auto decoder = Load(dir.path(), vae);
  Report report("vae", device,
                "VAE of Stable Diffusion's size, " + options.dtype + ", slabs of " +
                    std::to_string(options.workspace_mib) + " MiB" +
                    (options.tune_cudnn ? ", cuDNN tuned" : ""),
                {{"size_px", "px"},
                 {"gpus", "GPUs"},
                 {"ms", "ms"},
                 {"peak_gb", "GB over weights and output", 2},
                 {"planned_gb", "planned", 2},
                 {"tiles", "tiles"}});
  for (const int64_t size_px : options.sizes_px) report.Row(Measure(*decoder, size_px, device));
  if (options.ranks > 1) {
    for (const int64_t size_px : options.sizes_px) {
      report.Row(MeasureRanks(options.ranks, dir.path(), vae, size_px));
    }
  }
  report.Write(options.json);
  if (options.parts_px > 0) {
    PrintVaeParts(options.parts_px, vae.read.dtype, vae.workspace_bytes);
  }
}

}  // namespace
}  // namespace patchflow

int main(int argc, char** argv) {
  patchflow::Options options;
  CLI::App app("Decodes at Stable Diffusion's size with random weights on one GPU.");
  app.add_option("--sizes", options.sizes_px, "Sides in px, multiples of 8.")
      ->delimiter(',')
      ->check(CLI::Range(64, 8192));
  app.add_option("--dtype", options.dtype)->check(CLI::IsMember({"bf16", "fp16"}));
  app.add_option("--workspace-mib", options.workspace_mib)->check(CLI::Range(16, 65536));
  app.add_option("--parts", options.parts_px, "Also times each pass at this size.")
      ->check(CLI::Range(1024, 8192));
  app.add_option("--ranks", options.ranks, "Also decodes by this many GPUs together.")
      ->check(CLI::Range(1, 8));
  app.add_flag("--tune-cudnn", options.tune_cudnn, "Lets cuDNN measure its algorithms.");
  app.add_option("--json", options.json, "File to write the figures into.");
  CLI11_PARSE(app, argc, argv);
  try {
    patchflow::Run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench-vae: %s\n", error.what());
    return 1;
  }
  return 0;
}
