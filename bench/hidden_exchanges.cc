// How much of what ranks send each other hides behind kernels, by layout, in one run:
//
//   T       a step as it is
//   waited  for how long, of a step, the stream of the rank that waited least stood still in waits
//           (engine/stream_waits.h); the rank that waited least, since the others wait for it
//   Tc      the step's exchanges alone: the same operations over the same communicators, in the
//           same order, issued without a kernel between them and then waited for; different
//           communicators side by side
//   hidden = 1 - waited / Tc, and 0 where waiting took longer than the exchanges
//   T0      a step whose exchanges return at once: nothing is sent, nobody waited for
//   cost = T - T0: waits, and kernels that run slower because those of NCCL take multiprocessors,
//           bandwidth and power from them; no share of Tc, and a small difference of large times
//
//   bench-hidden-exchanges --sizes 2048 --json FILE [--layouts 'A;B'] ...
//
// T, T0 and T1 are measured in turns, `--rounds` times; each is of the slowest rank's median step,
// and what stands in the table is the median round, beside the lowest and the highest share of any
// one round.
//
// PipeFusion's steps are taken after its pipeline has filled, which costs an image once and is no
// transfer: the first patch of a step waits for the stage before it, but that is one step behind
// and works on the last patches meanwhile. What still counts as not hidden is a return that comes
// too late for the first patch, as with as many patches as stages. Stages of different speed do not
// count: waiting is of the rank that waited least.
//
// `waited` is of a third kind of step in each round, T1, every wait of which is timed; T and T0
// time none. So T1 - T is what timing costs: a worker pays a sixteenth of it for captured
// exchanges, and all of it for those outside of graphs, PipeFusion's hops. In T1 the host waits for
// each step besides, which makes both somewhat more than they are.
//
// In T0 kernels compute on what silence leaves: random numbers, where a rank would have received,
// and in Ulysses also old memory, on which attention may have to begin again: no cost is told
// there. On CPUs ranks are threads that share the cores, and times say nothing: to try it out.
#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "bench/layout_options.h"
#include "bench/layout_steps.h"
#include "bench/rank_threads.h"
#include "bench/report.h"
#include "bench/studied_world.h"
#include "engine/step_graph.h"
#include "engine/stream_waits.h"
#include "tests/engine/weights/scratch_dir.h"

namespace patchflow {
namespace {

constexpr double kMegabyte = 1e6;
constexpr absl::Duration kLimit = absl::Minutes(8);  // Of one layout.
constexpr int kRecordedSteps = 4;

struct Options : LayoutOptions {
  std::string graphs = "on";
  Repeats repeats;
  int rounds = 3;

  bool cuda_graphs() const { return graphs == "on"; }
};

// Of one rank at one size.
struct RankFigures {
  std::vector<double> as_is_ms;   // By round.
  std::vector<double> silent_ms;  // By round.
  std::vector<double> timed_ms;   // By round.
  std::vector<double> waited_ms;  // By round.
  double exchanges_ms = 0;
  int64_t sent_bytes = 0;
};

class RankBench {
 public:
  RankBench(const Options& options, const Layout& layout,
            const std::filesystem::path& transformer_dir, const RankThread& rank)
      : options_(options),
        device_(rank.device),
        world_(rank.world, rank.device),
        steps_(layout, transformer_dir, {world_, rank.device}),
        phase_{layout.is_stale(), options.cuda_graphs()} {}

  RankFigures Measure(int64_t size_px) {
    RankFigures figures;
    for (int round = 0; round < options_.rounds; ++round) {
      const StepFigures as_is = Steps(size_px, StudiedWorld::Mode::kAsIs, 0);
      figures.as_is_ms.push_back(as_is.time.median_ms);
      figures.sent_bytes = as_is.sent_bytes;
      const StepFigures silent = Steps(size_px, StudiedWorld::Mode::kSilent, 0);
      figures.silent_ms.push_back(silent.time.median_ms);
      const StepFigures timed = Steps(size_px, StudiedWorld::Mode::kAsIs, 1);
      figures.timed_ms.push_back(timed.time.median_ms);
      figures.waited_ms.push_back(timed.waited_ms);
    }
    figures.exchanges_ms = ExchangesMs(Recorded(size_px));
    return figures;
  }

 private:
  // All ranks of the process share what it says of timing. Those that are ahead change it when all
  // have captured the steps before.
  StepFigures Steps(int64_t size_px, StudiedWorld::Mode mode, int64_t to_one_timed) {
    world_.Set(mode);
    TimeOneReplayIn(to_one_timed);
    return steps_.Measure(size_px, phase_, options_.repeats);
  }

  // The exchanges of kRecordedSteps steps. What kernels they stand between changes nothing of them.
  std::vector<Exchange> Recorded(int64_t size_px) {
    const auto record = [&](int measured) {
      world_.Set(StudiedWorld::Mode::kRecord);
      steps_.Measure(size_px, {phase_.stale, /*cuda_graphs=*/false}, {1, measured});
      return world_.record();
    };
    const std::vector<Exchange> shorter = record(1);
    std::vector<Exchange> beyond = Beyond(record(1 + kRecordedSteps), shorter);
    world_.Set(StudiedWorld::Mode::kAsIs);
    return beyond;
  }

  // Of one step.
  double ExchangesMs(const std::vector<Exchange>& exchanges) {
    GraphPool pool;
    StepGraph graph(pool);
    const auto make = [&] { world_.Make(exchanges); };
    const auto run = [&] { options_.cuda_graphs() ? graph.Run(make) : make(); };
    return TimeOf(device_, run, options_.repeats).median_ms / kRecordedSteps;
  }

  const Options& options_;
  const at::Device device_;
  StudiedWorld world_;
  LayoutSteps steps_;
  const StepPhase phase_;
};

double MedianOf(std::vector<double> values) { return QuantilesOf(std::move(values)).median_ms; }

template <typename Fn>
double MostOf(const std::vector<RankFigures>& ranks, const Fn& of) {
  double most = of(ranks[0]);
  for (const RankFigures& rank : ranks) most = std::max(most, of(rank));
  return most;
}

nlohmann::json RowOf(const Layout& layout, int64_t size_px, const std::vector<RankFigures>& ranks) {
  const double exchanges_ms = MostOf(ranks, [](const auto& rank) { return rank.exchanges_ms; });
  std::vector<double> as_is_ms;
  std::vector<double> silent_ms;
  std::vector<double> timed_ms;
  std::vector<double> waited_ms;
  for (size_t round = 0; round < ranks[0].as_is_ms.size(); ++round) {
    as_is_ms.push_back(MostOf(ranks, [&](const auto& rank) { return rank.as_is_ms[round]; }));
    silent_ms.push_back(MostOf(ranks, [&](const auto& rank) { return rank.silent_ms[round]; }));
    timed_ms.push_back(MostOf(ranks, [&](const auto& rank) { return rank.timed_ms[round]; }));
    waited_ms.push_back(-MostOf(ranks, [&](const auto& rank) { return -rank.waited_ms[round]; }));
  }
  const auto hidden = [&](double waited) { return std::max(0.0, 1 - waited / exchanges_ms); };
  const auto [least, most] = std::minmax_element(waited_ms.begin(), waited_ms.end());
  nlohmann::json row = {
      {"size_px", size_px},
      {"layout", ToString(layout)},
      {"phase", layout.is_stale() ? "stale" : "synchronous"},
      {"ms", MedianOf(as_is_ms)},
      {"waited_ms", MedianOf(waited_ms)},
      {"exchanges_ms", exchanges_ms},
      {"hidden", hidden(MedianOf(waited_ms))},
      {"hidden_lowest", hidden(*most)},
      {"hidden_highest", hidden(*least)},
      {"silent_ms", MedianOf(silent_ms)},
      {"timed_ms", MedianOf(timed_ms)},
      {"sent_mb",
       MostOf(ranks, [](const auto& rank) { return static_cast<double>(rank.sent_bytes); }) /
           kMegabyte},
      {"rounds_ms", as_is_ms},
      {"silent_rounds_ms", silent_ms},
      {"waited_rounds_ms", waited_ms}};
  if (layout.ulysses == 1) row["cost_ms"] = MedianOf(as_is_ms) - MedianOf(silent_ms);
  return row;
}

std::vector<Column> Columns() {
  return {{"size_px", "px"},
          {"layout", "layout"},
          {"ms", "T ms", 3},
          {"waited_ms", "waited ms", 3},
          {"exchanges_ms", "Tc ms", 3},
          {"hidden", "hidden", 3},
          {"hidden_lowest", "lowest", 3},
          {"hidden_highest", "highest", 3},
          {"cost_ms", "cost ms", 3},
          {"timed_ms", "T1 ms", 3},
          {"sent_mb", "MB sent a step", 2}};
}

void Run(const Options& options) {
  CheckDevice(options);
  const c10::InferenceMode inference;
  const ScratchDir scratch;
  const std::filesystem::path dir = TransformerDir(options, scratch.path());
  const TransformerConfig model = ConfigOf(dir);
  const std::vector<Layout> layouts = LayoutsOf(options, model);
  const at::Device device(options.device_type(), options.device_type() == at::kCUDA ? 0 : -1);
  Report report("hidden-exchanges", device,
                ModelWords(options, model) + ", CUDA graphs " + options.graphs, Columns());
  for (const Layout& layout : layouts) {
    if (layout.ranks() == 1) throw CLI::ValidationError("--layouts", "one rank exchanges nothing");
    std::vector<std::vector<RankFigures>> of_sizes(options.sizes_px.size(),
                                                   std::vector<RankFigures>(layout.ranks()));
    RunOnRanks(options.device_type(), layout.ranks(), kLimit, [&](const RankThread& rank) {
      RankBench bench(options, layout, dir, rank);
      for (size_t i = 0; i < of_sizes.size(); ++i) {
        of_sizes[i][rank.world.rank()] = bench.Measure(options.sizes_px[i]);
      }
    });
    for (size_t i = 0; i < of_sizes.size(); ++i) {
      report.Row(RowOf(layout, options.sizes_px[i], of_sizes[i]));
    }
    report.Write(options.json);
  }
}

}  // namespace
}  // namespace patchflow

int main(int argc, char** argv) {
  CLI::App app("How much of the exchanges between ranks hides behind kernels, by layout");
  patchflow::Options options;
  options.sizes_px = {2048};
  AddLayoutOptions(app, options);
  app.add_option("--cuda-graphs", options.graphs)
      ->check(CLI::IsMember({"off", "on"}))
      ->capture_default_str();
  app.add_option("--repeats", options.repeats.measured, "Steps of each kind in a round")
      ->check(CLI::Range(1, 40))
      ->capture_default_str();
  app.add_option("--warm-up", options.repeats.warm_up, "Steps before them, at least")
      ->check(CLI::Range(1, 15))
      ->capture_default_str();
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 20))->capture_default_str();
  try {
    app.parse(argc, argv);
    if (options.device == "cpu") options.graphs = "off";
    patchflow::Run(options);
  } catch (const CLI::Error& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench-hidden-exchanges: %s\n", error.what());
    std::_Exit(1);  // A rank may have been left behind.
  }
  return 0;
}
