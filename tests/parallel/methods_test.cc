// Every layout against one device, and against the oracles of the stale methods.
#include "parallel/methods.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <map>
#include <mutex>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/parallel/oracle.h"
#include "tests/parallel/run_layout.h"
#include "tests/parallel/toy_transformer.h"

namespace patchflow {
namespace {

// Sums in another order: of features over tensor ranks, of keys over ring ranks or in another
// order of tokens, and products of few rows, for which MKL has other kernels.
constexpr double kReordered = 1e-5;
constexpr double kSameOrder = 0;

struct Case {
  std::string layout;
  double tolerance = kSameOrder;
  JobOptions job = {};
  ToyOptions toy = {};
};

[[maybe_unused]] std::string NameOf(const testing::TestParamInfo<Case>& info) {
  const Case& c = info.param;
  return absl::StrReplaceAll(absl::StrCat(c.layout, "_", c.job.grid.h, "x", c.job.grid.w, "_",
                                          std::string(c.job.scheduler), "_s", c.job.steps, "_g",
                                          c.job.guidance_scale, "_n", c.job.images),
                             {{"=", ""}, {",", "_"}, {"+", "_"}, {"-", ""}, {".", "p"}});
}

TestModel ModelOf(ToyOptions toy) {
  return [toy](const EnginePorts& ports, at::Device device) mutable {
    toy.shard = ports.transformer_shard;
    toy.blocks = ports.blocks;
    toy.device = device;
    return MakeToyTransformer(toy);
  };
}

Tensor RunCase(const Case& c, LocalTiming timing = LocalTiming::kAtIssue) {
  return RunLayout(ParseLayout(c.layout).value(), ToyConfig(c.toy), ModelOf(c.toy),
                   MakeTestJob(ToyConfig(c.toy), c.job),
                   {.wait_timeout = absl::Seconds(30), .timing = timing});
}

[[maybe_unused]] Tensor SerialOf(const Case& c) {
  return RunSerial(ModelOf(c.toy), MakeTestJob(ToyConfig(c.toy), c.job));
}

Tensor OracleOf(const Case& c) {
  const Layout layout = ParseLayout(c.layout).value();
  Tensor result;
  RunRanks(1, [&](const Rank& rank) {
    const auto whole = ModelOf(c.toy)({}, rank.device);
    const TestJob job = MakeTestJob(ToyConfig(c.toy), c.job).To(rank.device);
    result = layout.has_pipefusion()
                 ? PipeFusionOracle(*whole, job.job(), layout.patches, layout.warmup_steps)
                 : DistriFusionOracle(*whole, job.job(), layout.distrifusion, layout.warmup_steps);
  });
  return result;
}

TEST(Explore, Loop) {
  const char* text = std::getenv("LAYOUT");
  for (int i = 0; i < atoi(std::getenv("N")); ++i) {
    Case c{text};
    c.job.grid = {5, 7};
    const Layout layout = ParseLayout(c.layout).value();
    const Tensor a = RunCase(c);
    const Tensor b = RunCase(c, LocalTiming::kAtWait);
    Tensor o = OracleOf(c);
    if (RelativeError(a, o) > 1e-4 || RelativeError(b, o) > 1e-4)
      std::printf("%d a %g b %g\n", i, RelativeError(a, o), RelativeError(b, o));
  }
}
}  // namespace
}  // namespace patchflow
