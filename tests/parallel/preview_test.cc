#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "parallel/group.h"
#include "tests/parallel/method_case.h"

namespace patchflow {
namespace {

// Keeps what it is shown, on the host.
class Album final : public LatentsView {
 public:
  explicit Album(int every_steps) : every_steps_(every_steps) {}
  bool Wants(int steps_done) const override { return steps_done % every_steps_ == 0; }
  void Show(int steps_done, const Tensor& x0_NSC) override {
    EXPECT_TRUE(shown.empty() || steps_done > shown.rbegin()->first);
    shown[steps_done] = x0_NSC.cpu().clone();
  }

  std::map<int, Tensor> shown;

 private:
  const int every_steps_;
};

struct Made {
  Tensor latents;               // Undefined if it was stopped.
  std::map<int, Tensor> shown;  // By steps done.
};

Made DenoiseWithView(Denoiser& denoiser, const TestJob& job, int every_steps, int stop_at) {
  Album album(every_steps);
  DenoiseJob viewed = job.job();
  viewed.view = every_steps > 0 ? &album : nullptr;
  TestMonitor monitor(stop_at);
  Made made;
  try {
    made.latents = denoiser.Denoise(viewed, monitor).cpu();
  } catch (const Cancelled&) {
    EXPECT_GE(stop_at, 0);
  }
  made.shown = std::move(album.shown);
  return made;
}

struct Asked {
  int every_steps = 0;
  int stop_at = -1;
};

// Rank 0's, one after the other on the same denoisers.
std::vector<Made> RunViewed(const MethodCase& c, const std::vector<Asked>& requests,
                            LocalTiming timing = LocalTiming::kAtIssue) {
  const Layout layout = ParseLayout(c.layout).value();
  const Network network = NetworkOf(c);
  const TestJob job = MakeTestJob(network.config, c.job);
  std::vector<Made> all;
  RunRanks(layout.ranks(),
           [&](const Rank& rank) {
             const GroupRank member(layout, rank.world, network.config);
             const EnginePorts ports = member.ports();
             const auto transformer = network.make(ports, rank.device);
             const auto denoiser = ports.make_denoiser(*transformer);
             for (const Asked& asked : requests) {
               Made made = DenoiseWithView(*denoiser, job.To(rank.device), asked.every_steps,
                                           asked.stop_at);
               if (rank.index() == 0) all.push_back(std::move(made));
             }
           },
           {.timing = timing});
  return all;
}

Made RunSerialViewed(const MethodCase& c) {
  const Network network = NetworkOf(c);
  const TestJob job = MakeTestJob(network.config, c.job);
  Made made;
  RunRanks(1, [&](const Rank& rank) {
    const auto transformer = network.make({}, rank.device);
    const auto denoiser = MakeSerialDenoiser(*transformer, CudaGraphs::kNo);
    made = DenoiseWithView(*denoiser, job.To(rank.device), 1, -1);
  });
  return made;
}

// What a step expects of the image: early on, several times as far off as the latents.
double Tolerance() {
  if (!RanksAreGpus()) return kReordered;
  return RanksDtype() == at::kFloat ? kGpuFloat : 2 * kHalfPrecision;
}

std::vector<int> StepsOf(const Made& made) {
  std::vector<int> steps;
  for (const auto& [step, latents] : made.shown) steps.push_back(step);
  return steps;
}

class ViewedLayout : public testing::TestWithParam<MethodCase> {};

TEST_P(ViewedLayout, ShowsEachStepAskedForAndLeavesTheLatentsAsTheyAre) {
  const int steps = GetParam().job.steps;
  for (const LocalTiming timing : {LocalTiming::kAtIssue, LocalTiming::kAtWait}) {
    const std::vector<Made> made =
        RunViewed(GetParam(), {Asked{0}, Asked{1}, Asked{4}, Asked{0}}, timing);
    ASSERT_EQ(made.size(), 4u);
    EXPECT_TRUE(made[0].shown.empty());
    EXPECT_EQ(StepsOf(made[1]).size(), static_cast<size_t>(steps));
    EXPECT_THAT(StepsOf(made[2]), testing::ElementsAre(4));
    for (const Made& other : made) EXPECT_TRUE(at::equal(other.latents, made[0].latents));
    EXPECT_TRUE(at::equal(made[2].shown.at(4), made[1].shown.at(4)));
  }
}

// The samplers end without noise: what the last step expects is what it makes.
TEST_P(ViewedLayout, ShowsTheLatentsThemselvesInTheEnd) {
  const Made made = RunViewed(GetParam(), {Asked{1}})[0];
  EXPECT_LT(RelativeError(made.shown.at(GetParam().job.steps), made.latents), 1e-6);
}

// Steps that are not stale show what one device shows. Stale ones of the bundled model are at least
// nearer to it than to any other step; of the toy, whose blocks are strong, they are not.
TEST_P(ViewedLayout, ShowsTheStepThatItSays) {
  const MethodCase& c = GetParam();
  const Layout layout = ParseLayout(c.layout).value();
  const Made serial = RunSerialViewed(c);
  const Made made = RunViewed(c, {Asked{1}})[0];
  for (const auto& [step, latents] : made.shown) {
    const double error = RelativeError(latents, serial.shown.at(step));
    if (!layout.is_stale() || step <= layout.warmup_steps) {
      EXPECT_LE(error, Tolerance()) << c.layout << " after " << step;
    }
    if (RanksDtype() != at::kFloat || (layout.is_stale() && !c.bundled)) continue;
    for (const auto& [other, its] : serial.shown) {
      if (other == step) continue;
      EXPECT_LT(error, RelativeError(latents, its)) << step << " looks like " << other;
    }
  }
}

// Ranks stop together with a preview on its way, and the next request is not disturbed by it.
TEST_P(ViewedLayout, StoppingLeavesNoPreviewBehind) {
  std::vector<Asked> requests = {Asked{1}};
  for (int stop_at = 0; stop_at <= GetParam().job.steps; ++stop_at) {
    requests.push_back({1, stop_at});
    requests.push_back({1});
  }
  const std::vector<Made> made = RunViewed(GetParam(), requests);
  for (size_t i = 0; i < made.size(); ++i) {
    if (requests[i].stop_at >= 0) {
      EXPECT_FALSE(made[i].latents.defined());
      EXPECT_LE(made[i].shown.size(), static_cast<size_t>(requests[i].stop_at));
      continue;
    }
    EXPECT_TRUE(at::equal(made[i].latents, made[0].latents));
    for (const auto& [step, latents] : made[0].shown) {
      EXPECT_TRUE(at::equal(made[i].shown.at(step), latents)) << step;
    }
  }
}

std::vector<MethodCase> Cases() {
  const JobOptions ragged{.grid = {5, 7}};
  const JobOptions ddim{.grid = {5, 7}, .scheduler = "ddim", .images = 2};
  const JobOptions euler{.scheduler = "euler"};
  const std::string pipe = "pipefusion=2,patches=3,warmup_steps=";
  return ThatFit({
      {"ulysses=2", kSameOrder, ragged},
      {"ulysses=2", kSameOrder, ddim},
      {"ring=2", kReordered, euler},
      {"tensor=2", kReordered, ragged},
      {"guidance=2", kSameOrder, ddim},
      {"guidance=2,ulysses=2", kSameOrder, euler},
      {"distrifusion=2,warmup_steps=1", kSameOrder, ragged},
      {"distrifusion=2,warmup_steps=2", kSameOrder, ddim},
      {"distrifusion=3,warmup_steps=1", kSameOrder, euler},
      {pipe + "1", kSameOrder, ragged},
      {pipe + "2", kSameOrder, ddim},
      {pipe + "1", kSameOrder, euler},
      {pipe + "6", kSameOrder, ragged},
      {"pipefusion=1,patches=4,warmup_steps=1", kSameOrder, ragged},
      {"pipefusion=3,patches=2,warmup_steps=1", kSameOrder, ragged},
      {pipe + "1", kSameOrder, {.grid = {9, 7}, .steps = 4}, {}, true},
      {"distrifusion=2,warmup_steps=1", kSameOrder, {.grid = {9, 7}, .steps = 4}, {}, true},
      {pipe + "1,ulysses=2", kReordered, ragged},
      {pipe + "1,ulysses=2,guidance=2", kReordered, ddim},
  });
}
INSTANTIATE_TEST_SUITE_P(Layouts, ViewedLayout, testing::ValuesIn(Cases()), CaseName);

}  // namespace
}  // namespace patchflow
