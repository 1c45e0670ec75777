// One denoising step of PixArt-XL/2's shape (28 blocks, 16 heads of 72, 300 text tokens, guidance
// batch of two, bfloat16) by every layout, beside one GPU in the same run: milliseconds, bytes
// sent, memory, and how far final latents are from those of one GPU.
//
//   bench-parallel-steps --sizes 1024,2048 --json FILE [--model DIR] [--layouts 'A;B'] ...
//
// Weights are random unless --model names a checkpoint. A row is of the slowest rank, or of the one
// with the most bytes.
#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bench/layout_steps.h"
#include "bench/random_model.h"
#include "bench/report.h"
#include "engine/device.h"
#include "tests/engine/weights/scratch_dir.h"

namespace patchflow {
namespace {

constexpr double kMegabyte = 1e6;
constexpr double kGigabyte = 1e9;
constexpr int64_t kLargePx = 4096;  // From here on fewer steps are measured.
constexpr Repeats kLarge{2, 5};
constexpr absl::Duration kLimit = absl::Minutes(8);  // Of one layout.

struct Options {
  std::vector<int64_t> sizes_px = {1024, 2048};
  std::vector<std::string> layouts = {"tensor=2",
                                      "ulysses=2",
                                      "ring=2",
                                      "guidance=2",
                                      "distrifusion=2,warmup_steps=1",
                                      "pipefusion=2,patches=2,warmup_steps=1",
                                      "pipefusion=2,patches=4,warmup_steps=1"};
  std::vector<std::string> graphs = {"off", "on"};
  Repeats repeats;
  int image_steps = 20;
  std::string model;
  std::string json;
};

struct Cell {
  int64_t size_px;
  StepPhase phase;
  bool operator<(const Cell& other) const {
    return std::tie(size_px, phase.stale, phase.cuda_graphs) <
           std::tie(other.size_px, other.phase.stale, other.phase.cuda_graphs);
  }
};

// Of one rank.
struct RankResults {
  int64_t parameter_bytes = 0;
  std::map<Cell, StepFigures> figures;
  std::map<Cell, Tensor> latents;  // Of the last way of running each phase.
};

class LayoutBench {
 public:
  LayoutBench(const Options& options, std::filesystem::path transformer_dir)
      : options_(options), transformer_dir_(std::move(transformer_dir)) {}

  std::vector<RankResults> Measure(const Layout& layout) const {
    std::vector<RankResults> results(layout.ranks());
    RunOnGpus(layout.ranks(), kLimit, [&](const GpuRank& rank) {
      RankResults& mine = results[rank.world.rank()];
      LayoutSteps steps(layout, transformer_dir_, rank);
      mine.parameter_bytes = steps.parameter_bytes();
      for (const int64_t size_px : options_.sizes_px) {
        for (const bool stale : {false, true}) {
          if (!stale || layout.is_stale()) MeasurePhase(size_px, stale, steps, mine);
        }
      }
    });
    return results;
  }

 private:
  void MeasurePhase(int64_t size_px, bool stale, LayoutSteps& steps, RankResults& mine) const {
    const Repeats repeats = size_px < kLargePx ? options_.repeats : kLarge;
    Cell last{};
    for (const std::string& graphs : options_.graphs) {
      last = {size_px, {stale, graphs == "on"}};
      mine.figures[last] = steps.Measure(size_px, last.phase, repeats);
    }
    if (options_.image_steps > 0) {
      mine.latents[last] = steps.Latents(size_px, last.phase, options_.image_steps);
    }
  }

  const Options& options_;
  const std::filesystem::path transformer_dir_;
};

// The largest of all ranks.
template <typename Fn>
auto MaxOf(const std::vector<RankResults>& ranks, const Fn& of) {
  auto most = of(ranks[0]);
  for (const RankResults& rank : ranks) most = std::max(most, of(rank));
  return most;
}

nlohmann::json RowOf(const std::string& layout, const Cell& cell,
                     const std::vector<RankResults>& ranks, const RankResults& serial) {
  const auto figures = [&cell](const RankResults& rank) { return rank.figures.at(cell); };
  const Cell like_serial{cell.size_px, {false, cell.phase.cuda_graphs}};
  const double ms = MaxOf(ranks, [&](const auto& rank) { return figures(rank).time.median_ms; });
  const double serial_ms = serial.figures.at(like_serial).time.median_ms;
  const int64_t parameter_bytes =
      MaxOf(ranks, [](const auto& rank) { return rank.parameter_bytes; });
  nlohmann::json row = {
      {"size_px", cell.size_px},
      {"layout", layout},
      {"phase", cell.phase.stale ? "stale" : "synchronous"},
      {"cuda_graphs", cell.phase.cuda_graphs ? "on" : "off"},
      {"ms", ms},
      {"speedup", serial_ms / ms},
      {"peak_gb", static_cast<double>(
                      MaxOf(ranks, [&](const auto& rank) { return figures(rank).peak_bytes; })) /
                      kGigabyte},
      {"parameter_gb", static_cast<double>(parameter_bytes) / kGigabyte},
      {"parameter_share",
       static_cast<double>(parameter_bytes) / static_cast<double>(serial.parameter_bytes)}};
  if (!cell.phase.cuda_graphs) {
    row["sent_mb"] = static_cast<double>(
                         MaxOf(ranks, [&](const auto& rank) { return figures(rank).sent_bytes; })) /
                     kMegabyte;
  }
  const auto mine = ranks[0].latents.find(cell);
  const auto expected = serial.latents.find(like_serial);
  if (layout != "serial" && mine != ranks[0].latents.end() && expected != serial.latents.end()) {
    row["psnr_db"] = PsnrDb(mine->second, expected->second);
  }
  for (const RankResults& rank : ranks) {
    const StepFigures of_rank = figures(rank);
    row["ranks"].push_back({{"p10_ms", of_rank.time.p10_ms},
                            {"median_ms", of_rank.time.median_ms},
                            {"p90_ms", of_rank.time.p90_ms},
                            {"sent_bytes", of_rank.sent_bytes},
                            {"peak_bytes", of_rank.peak_bytes},
                            {"parameter_bytes", rank.parameter_bytes}});
  }
  return row;
}

std::filesystem::path TransformerDir(const Options& options, const ScratchDir& scratch) {
  if (!options.model.empty()) return std::filesystem::path(options.model) / "transformer";
  WriteRandomPixArt({}, {at::Device(at::kCUDA, 0), at::kBFloat16}, scratch.path());
  return scratch.path();
}

std::vector<Layout> LayoutsOf(const Options& options, const TransformerConfig& model) {
  std::vector<Layout> layouts = {Layout{}};
  for (const std::string& text : options.layouts) {
    const auto layout = ParseLayout(text);
    if (!layout.ok())
      throw CLI::ValidationError("--layouts", std::string(layout.status().message()));
    const absl::Status fits = CheckLayout(*layout, layout->ranks(), model);
    if (!fits.ok()) throw CLI::ValidationError("--layouts", std::string(fits.message()));
    if (layout->ranks() > CudaDeviceCount()) {
      throw CLI::ValidationError(
          "--layouts", absl::StrCat(text, " needs ", layout->ranks(), " GPUs, and there are ",
                                    CudaDeviceCount()));
    }
    layouts.push_back(*layout);
  }
  return layouts;
}

void Run(const Options& options) {
  if (CudaDeviceCount() == 0) throw std::runtime_error("there is no GPU on this machine");
  const c10::InferenceMode inference;
  const ScratchDir scratch;
  const std::filesystem::path dir = TransformerDir(options, scratch);
  const auto config = ReadTransformerConfig(dir);
  if (!config.ok()) throw std::runtime_error(std::string(config.status().message()));
  const LayoutBench bench(options, dir);
  Report report("parallel-steps", at::Device(at::kCUDA, 0),
                absl::StrCat("PixArt-XL/2's shape, ",
                             options.model.empty() ? "random weights" : options.model,
                             ", guidance batch of two, bfloat16; PSNR of the latents after ",
                             options.image_steps, " steps"),
                {{"size_px", "px"},
                 {"layout", "layout"},
                 {"phase", "phase"},
                 {"cuda_graphs", "graphs"},
                 {"ms", "ms a step", 2},
                 {"speedup", "x one GPU", 2},
                 {"sent_mb", "MB sent a step", 2},
                 {"peak_gb", "peak GB", 2},
                 {"parameter_gb", "weights GB", 3},
                 {"parameter_share", "of one GPU's", 3},
                 {"psnr_db", "PSNR dB", 1}});
  std::vector<RankResults> serial;
  for (const Layout& layout : LayoutsOf(options, *config)) {
    const std::vector<RankResults> ranks = bench.Measure(layout);
    if (serial.empty()) serial = ranks;
    for (const auto& [cell, figures] : ranks[0].figures) {
      report.Row(RowOf(ToString(layout), cell, ranks, serial[0]));
    }
    report.Write(options.json);
  }
}

}  // namespace
}  // namespace patchflow

int main(int argc, char** argv) {
  CLI::App app("Milliseconds, bytes and memory of a denoising step by each layout");
  patchflow::Options options;
  app.add_option("--sizes", options.sizes_px, "Pixels a side")
      ->delimiter(',')
      ->check(CLI::Range(256, 8192))
      ->capture_default_str();
  app.add_option("--layouts", options.layouts, "Beside one GPU, with ';' between them")
      ->delimiter(';')
      ->capture_default_str();
  app.add_option("--cuda-graphs", options.graphs)
      ->delimiter(',')
      ->check(CLI::IsMember({"off", "on"}))
      ->capture_default_str();
  app.add_option("--repeats", options.repeats.measured)
      ->check(CLI::Range(1, 40))
      ->capture_default_str();
  app.add_option("--warm-up", options.repeats.warm_up)
      ->check(CLI::Range(4, 20))
      ->capture_default_str();
  app.add_option("--image-steps", options.image_steps, "0 makes no images to compare")
      ->check(CLI::Range(0, 100))
      ->capture_default_str();
  app.add_option("--model", options.model, "A checkpoint instead of random weights");
  app.add_option("--json", options.json, "Write the numbers to this file");
  try {
    app.parse(argc, argv);
    patchflow::Run(options);
  } catch (const CLI::Error& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench-parallel-steps: %s\n", error.what());
    std::_Exit(1);  // A rank may have been left behind.
  }
  return 0;
}
