// Decoding at Stable Diffusion's size with random weights on one GPU: milliseconds, and peak memory
// over weights and output.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/cuda_time.h"
#include "bench/random_vae.h"
#include "bench/vae_parts.h"
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
  bool tune_cudnn = false;
  std::string json;
};

struct Repeats {
  int warm_up;
  int measured;
};
Repeats RepeatsAt(int64_t size_px) {
  if (size_px <= 2048) return {3, 15};
  return size_px <= 4096 ? Repeats{2, 5} : Repeats{1, 3};
}

std::unique_ptr<VaeDecoder> Load(const Options& options, at::Device device) {
  const ScratchDir dir;
  WriteRandomVae(dir.path());
  VaeOptions vae;
  vae.read.device = device;
  vae.read.dtype = options.dtype == "bf16" ? at::kBFloat16 : at::kHalf;
  vae.workspace_bytes = options.workspace_mib << 20;
  auto decoder = LoadVaeDecoder(dir.path(), vae);
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
  const Repeats repeats = RepeatsAt(size_px);
  const double ms =
      MedianMs([&] { DecodeWhole(decoder, latents, {}); }, repeats.warm_up - 1, repeats.measured);
  const int64_t peak_bytes = MemoryOf(device).peak_bytes - before - output_bytes;
  return {{"size_px", size_px},
          {"ms", ms},
          {"tiles", tiles},
          {"peak_gb", static_cast<double>(peak_bytes) / kGigabyte},
          {"planned_gb",
           static_cast<double>(decoder.PeakBytes(side, side) - output_bytes) / kGigabyte}};
}

void Run(const Options& options) {
  const at::Device device(at::kCUDA, 0);
  const DeviceThread thread(DeviceThread::MakeStream(device));
  at::globalContext().setBenchmarkCuDNN(options.tune_cudnn);
  const auto decoder = Load(options, device);
  nlohmann::json report = {{"machine", at::cuda::getCurrentDeviceProperties()->name},
                           {"dtype", options.dtype},
                           {"workspace_mib", options.workspace_mib},
                           {"tune_cudnn", options.tune_cudnn},
                           {"rows", nlohmann::json::array()}};
  std::printf("%s, %s, weights %.2f GB, workspace %ld MiB%s\n\n",
              at::cuda::getCurrentDeviceProperties()->name, options.dtype.c_str(),
              static_cast<double>(decoder->parameter_bytes()) / kGigabyte, options.workspace_mib,
              options.tune_cudnn ? ", cuDNN tuned" : "");
  std::printf(
      "| px | ms | GB over weights and output | planned | tiles |\n|---|---|---|---|---|\n");
  for (const int64_t size_px : options.sizes_px) {
    const nlohmann::json row = Measure(*decoder, size_px, device);
    std::printf("| %ld | %.1f | %.2f | %.2f | %d |\n", size_px, row["ms"].get<double>(),
                row["peak_gb"].get<double>(), row["planned_gb"].get<double>(),
                row["tiles"].get<int>());
    std::fflush(stdout);
    report["rows"].push_back(row);
  }
  if (!options.json.empty()) std::ofstream(options.json) << report.dump(1) << "\n";
  if (options.parts_px > 0) {
    PrintVaeParts(options.parts_px, decoder->options().read.dtype,
                  decoder->options().workspace_bytes);
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
