#include "bench/layout_options.h"

#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "engine/device.h"

namespace patchflow {

void AddLayoutOptions(CLI::App& app, LayoutOptions& options) {
  app.add_option("--device", options.device)
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--sizes", options.sizes_px, "Pixels a side")
      ->delimiter(',')
      ->check(CLI::Range(64, 8192))
      ->capture_default_str();
  app.add_option("--layouts", options.layouts, "With ';' between them")
      ->delimiter(';')
      ->capture_default_str();
  app.add_option("--model", options.model, "A checkpoint instead of random weights");
  app.add_option("--random-model", options.random_model,
                 "Folder of the random weights, made where there is none and kept");
  app.add_option("--blocks", options.shape.blocks)
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--heads", options.shape.heads)->check(CLI::Range(1, 128))->capture_default_str();
  app.add_option("--head-size", options.shape.head_size)
      ->check(CLI::Range(2, 256))
      ->capture_default_str();
  app.add_option("--json", options.json, "Write the numbers to this file");
}

void CheckDevice(const LayoutOptions& options) {
  if (options.device_type() == at::kCUDA && CudaDeviceCount() == 0) {
    throw std::runtime_error("there is no GPU on this machine");
  }
  if (options.device_type() == at::kCPU) SetThreadsPerOperation(1);
}

std::filesystem::path TransformerDir(const LayoutOptions& options,
                                     const std::filesystem::path& scratch) {
  if (!options.model.empty()) return std::filesystem::path(options.model) / "transformer";
  const RandomWeights weights = options.device_type() == at::kCUDA
                                    ? RandomWeights{at::Device(at::kCUDA, 0), at::kBFloat16}
                                    : RandomWeights{at::kCPU, at::kFloat};
  if (options.random_model.empty()) {
    WriteRandomPixArt(options.shape, weights, scratch);
    return scratch;
  }
  const std::filesystem::path kept = options.random_model;
  if (!std::filesystem::exists(kept)) {
    const std::filesystem::path unfinished = kept.string() + ".unfinished";
    std::filesystem::create_directories(unfinished);
    WriteRandomPixArt(options.shape, weights, unfinished);
    std::filesystem::rename(unfinished, kept);
  }
  return kept;
}

TransformerConfig ConfigOf(const std::filesystem::path& transformer_dir) {
  const auto config = ReadTransformerConfig(transformer_dir);
  if (!config.ok()) throw std::runtime_error(std::string(config.status().message()));
  return *config;
}

std::string ModelWords(const LayoutOptions& options, const TransformerConfig& model) {
  return absl::StrCat(options.model.empty() ? "random weights" : options.model, ", ",
                      model.num_blocks, " blocks, ", model.num_heads, " heads of ", model.head_size,
                      ", guidance batch of two");
}

std::vector<Layout> LayoutsOf(const LayoutOptions& options, const TransformerConfig& model) {
  std::vector<Layout> layouts;
  for (const std::string& text : options.layouts) {
    const auto layout = ParseLayout(text);
    if (!layout.ok()) {
      throw CLI::ValidationError("--layouts", std::string(layout.status().message()));
    }
    const absl::Status fits = CheckLayout(*layout, layout->ranks(), model);
    if (!fits.ok()) throw CLI::ValidationError("--layouts", std::string(fits.message()));
    if (options.device_type() == at::kCUDA && layout->ranks() > CudaDeviceCount()) {
      throw CLI::ValidationError(
          "--layouts", absl::StrCat(text, " needs ", layout->ranks(), " GPUs, and there are ",
                                    CudaDeviceCount()));
    }
    layouts.push_back(*layout);
  }
  return layouts;
}

}  // namespace patchflow
