// One denoising step of PixArt-XL/2's shape (28 blocks, 16 heads of 72, 300 text tokens, guidance
// batch of two, bfloat16) by every layout, beside one rank in the same run: milliseconds, bytes
// sent, memory, what an image takes, and how far its latents are from those of one rank.
//
//   bench-parallel-steps --sizes 1024,2048 --json FILE [--model DIR] [--layouts 'A;B'] ...
//
// Weights are random unless --model names a checkpoint. A row is of the slowest rank, or of the one
// with the most bytes. The file is written anew after every layout. On CPUs ranks are threads, and
// numbers are float32: for small shapes.
#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bench/layout_options.h"
#include "bench/layout_steps.h"
#include "bench/psnr.h"
#include "bench/rank_threads.h"
#include "bench/report.h"
#include "engine/device.h"
#include "engine/stream_waits.h"
#include "tests/engine/weights/scratch_dir.h"

namespace patchflow {
namespace {

constexpr double kMegabyte = 1e6;
constexpr double kGigabyte = 1e9;
constexpr int64_t kLargePx = 4096;  // From here on fewer steps are measured.
constexpr Repeats kSmall{5, 20};
constexpr Repeats kLarge{2, 5};
constexpr absl::Duration kLimit = absl::Minutes(8);  // Of one layout.

struct Options : LayoutOptions {
  std::vector<std::string> graphs = {"off", "on"};
  std::optional<int> warm_up;
  std::optional<int> repeats;
  int image_steps = 20;
  bool beside_serial = true;
  bool stale_only = false;
  int64_t to_one_timed = ReplaysToOneTimed();

  Repeats RepeatsAt(int64_t size_px) const {
    const Repeats usual = size_px < kLargePx ? kSmall : kLarge;
    return {warm_up.value_or(usual.warm_up), repeats.value_or(usual.measured)};
  }
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
  std::map<Cell, ImageFigures>
      images;  // Of the layout's last phase, by the last way of running it.
};

class LayoutBench {
 public:
  LayoutBench(const Options& options, std::filesystem::path transformer_dir)
      : options_(options), transformer_dir_(std::move(transformer_dir)) {}

  std::vector<RankResults> Measure(const Layout& layout) const {
    std::vector<RankResults> results(layout.ranks());
    RunOnRanks(options_.device_type(), layout.ranks(), kLimit, [&](const RankThread& rank) {
      RankResults& mine = results[rank.world.rank()];
      LayoutSteps steps(layout, transformer_dir_, rank);
      mine.parameter_bytes = steps.parameter_bytes();
      for (const int64_t size_px : options_.sizes_px) {
        for (const bool stale : {false, true}) {
          const bool left_out =
              stale ? !layout.is_stale() : layout.is_stale() && options_.stale_only;
          if (left_out) continue;
          MeasureSteps(size_px, stale, steps, mine);
          if (options_.image_steps > 0 && stale == layout.is_stale()) {
            MeasureImage(size_px, stale, steps, mine);
          }
        }
      }
    });
    return results;
  }

 private:
  void MeasureSteps(int64_t size_px, bool stale, LayoutSteps& steps, RankResults& mine) const {
    for (const std::string& graphs : options_.graphs) {
      const Cell cell{size_px, {stale, graphs == "on"}};
      mine.figures[cell] = steps.Measure(size_px, cell.phase, options_.RepeatsAt(size_px));
    }
  }

  void MeasureImage(int64_t size_px, bool stale, LayoutSteps& steps, RankResults& mine) const {
    const Cell cell{size_px, {stale, options_.graphs.back() == "on"}};
    mine.images[cell] = steps.Image(size_px, cell.phase, options_.image_steps);
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

nlohmann::json RanksOf(const Cell& cell, const std::vector<RankResults>& ranks) {
  nlohmann::json rows;
  for (const RankResults& rank : ranks) {
    const StepFigures& figures = rank.figures.at(cell);
    rows.push_back({{"p10_ms", figures.time.p10_ms},
                    {"median_ms", figures.time.median_ms},
                    {"p90_ms", figures.time.p90_ms},
                    {"sent_bytes", figures.sent_bytes},
                    {"waited_ms", figures.waited_ms},
                    {"peak_bytes", figures.peak_bytes},
                    {"parameter_bytes", rank.parameter_bytes}});
  }
  return rows;
}

// How this compares with one rank in the same phase and by the same way of running it.
void AddComparison(const Cell& cell, const std::vector<RankResults>& ranks,
                   const RankResults& serial, nlohmann::json& row) {
  const Cell like_serial{cell.size_px, {false, cell.phase.cuda_graphs}};
  row["speedup"] = serial.figures.at(like_serial).time.median_ms / row["ms"].get<double>();
  row["parameter_share"] =
      static_cast<double>(MaxOf(ranks, [](const auto& rank) { return rank.parameter_bytes; })) /
      static_cast<double>(serial.parameter_bytes);
  const auto mine = ranks[0].images.find(cell);
  const auto expected = serial.images.find(like_serial);
  if (ranks.size() > 1 && mine != ranks[0].images.end() && expected != serial.images.end()) {
    row["psnr_db"] = PsnrDb(mine->second.latents, expected->second.latents);
  }
}

nlohmann::json RowOf(const std::string& layout, const Cell& cell,
                     const std::vector<RankResults>& ranks) {
  const auto most = [&](const auto& of) {
    return MaxOf(ranks, [&](const RankResults& rank) { return of(rank.figures.at(cell)); });
  };
  const auto parameter_bytes = MaxOf(ranks, [](const auto& rank) { return rank.parameter_bytes; });
  nlohmann::json row = {
      {"size_px", cell.size_px},
      {"layout", layout},
      {"phase", cell.phase.stale ? "stale" : "synchronous"},
      {"cuda_graphs", cell.phase.cuda_graphs ? "on" : "off"},
      {"ms", most([](const StepFigures& figures) { return figures.time.median_ms; })},
      {"sent_mb",
       static_cast<double>(most([](const auto& figures) { return figures.sent_bytes; })) /
           kMegabyte},
      {"peak_gb",
       static_cast<double>(most([](const auto& figures) { return figures.peak_bytes; })) /
           kGigabyte},
      {"parameter_gb", static_cast<double>(parameter_bytes) / kGigabyte},
      {"ranks", RanksOf(cell, ranks)}};
  if (ranks[0].images.contains(cell)) {
    row["image_ms"] = MaxOf(ranks, [&](const auto& rank) { return rank.images.at(cell).ms; });
  }
  return row;
}

std::vector<Column> Columns() {
  return {{"size_px", "px"},
          {"layout", "layout"},
          {"phase", "phase"},
          {"cuda_graphs", "graphs"},
          {"ms", "ms a step", 2},
          {"image_ms", "ms an image", 1},
          {"speedup", "x one rank", 2},
          {"sent_mb", "MB sent a step", 2},
          {"peak_gb", "peak GB", 2},
          {"parameter_gb", "weights GB", 3},
          {"parameter_share", "of one rank's", 3},
          {"psnr_db", "PSNR dB", 1}};
}

std::string WhatOf(const Options& options, const TransformerConfig& model) {
  return absl::StrCat(ModelWords(options, model),
                      "; images and PSNR of latents: ", options.image_steps, " steps");
}

void Run(const Options& options) {
  CheckDevice(options);
  TimeOneReplayIn(options.to_one_timed);
  const c10::InferenceMode inference;
  const ScratchDir scratch;
  const std::filesystem::path dir = TransformerDir(options, scratch.path());
  const TransformerConfig config = ConfigOf(dir);
  std::vector<Layout> layouts = LayoutsOf(options, config);
  if (options.beside_serial) layouts.insert(layouts.begin(), Layout());
  const LayoutBench bench(options, dir);
  const at::Device device(options.device_type(), options.device_type() == at::kCUDA ? 0 : -1);
  Report report("parallel-steps", device, WhatOf(options, config), Columns());
  report.Add("image_steps", options.image_steps);
  std::vector<RankResults> serial;
  for (const Layout& layout : layouts) {
    const std::vector<RankResults> ranks = bench.Measure(layout);
    if (serial.empty() && options.beside_serial) serial = ranks;
    for (const auto& [cell, figures] : ranks[0].figures) {
      nlohmann::json row = RowOf(ToString(layout), cell, ranks);
      if (!serial.empty()) AddComparison(cell, ranks, serial[0], row);
      report.Row(std::move(row));
    }
    report.Write(options.json);
  }
}

}  // namespace
}  // namespace patchflow

int main(int argc, char** argv) {
  CLI::App app("Milliseconds, bytes and memory of a denoising step by each layout");
  patchflow::Options options;
  AddLayoutOptions(app, options);
  app.add_option("--cuda-graphs", options.graphs)
      ->delimiter(',')
      ->check(CLI::IsMember({"off", "on"}))
      ->capture_default_str();
  app.add_flag("!--without-serial", options.beside_serial, "Leave one rank out");
  app.add_flag("--stale-only", options.stale_only,
               "Of stale methods, leave out the steps in which all is fresh");
  app.add_option("--repeats", options.repeats, "Steps; 20, and 5 from 4096 px on")
      ->check(CLI::Range(1, 40));
  app.add_option("--warm-up", options.warm_up, "Steps, at least; 5, and 2 from 4096 px on")
      ->check(CLI::Range(1, 15));
  app.add_option("--image-steps", options.image_steps, "0 makes no images to compare")
      ->check(CLI::Range(0, 100))
      ->capture_default_str();
  app.add_option("--time-one-replay-in", options.to_one_timed,
                 "Replays of a step to one whose waits are timed; 0 times none")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
    if (options.device == "cpu") options.graphs = {"off"};
    patchflow::Run(options);
  } catch (const CLI::Error& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench-parallel-steps: %s\n", error.what());
    std::_Exit(1);  // A rank may have been left behind.
  }
  return 0;
}
