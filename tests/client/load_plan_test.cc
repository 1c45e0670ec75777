#include "client/load_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

LoadOptions Closed() {
  LoadOptions options;
  options.concurrencies = {4};
  options.requests = 10;
  return options;
}

std::string FaultOf(const LoadOptions& options) {
  return std::string(MakeLoadPlan(options).status().message());
}

TEST(LoadPlanTest, IsTheSameForTheSameSeedButForTheIds) {
  LoadOptions options = Closed();
  options.mix = {"256x128:3", "512x512:20"};
  options.cancels = 0.5;
  const LoadPlan first = MakeLoadPlan(options).value();
  const LoadPlan second = MakeLoadPlan(options).value();
  options.seed = 2;
  const LoadPlan other = MakeLoadPlan(options).value();
  EXPECT_NE(first.id_prefix, second.id_prefix);
  int differ = 0;
  for (int i = 0; i < 100; ++i) {
    PlannedRequest a = first.RequestOf(i);
    PlannedRequest b = second.RequestOf(i);
    EXPECT_EQ(a.request.request_id(), first.id_prefix + std::to_string(i));
    a.request.clear_request_id();
    b.request.clear_request_id();
    EXPECT_EQ(a.request.SerializeAsString(), b.request.SerializeAsString());
    EXPECT_EQ(a.ending, b.ending);
    EXPECT_EQ(a.leave_after, b.leave_after);
    if (a.request.sampling().seed() != other.RequestOf(i).request.sampling().seed()) ++differ;
  }
  EXPECT_EQ(differ, 100);
}

TEST(LoadPlanTest, DrawsSizesByTheirWeights) {
  LoadOptions options = Closed();
  options.mix = {"256x128:3:3", "512x512:20"};
  const LoadPlan plan = MakeLoadPlan(options).value();
  int small = 0;
  for (int i = 0; i < 10000; ++i) {
    const v1::GenerateImagesRequest request = plan.RequestOf(i).request;
    const bool is_small = request.image().width() == 256;
    EXPECT_EQ(request.image().height(), is_small ? 128 : 512);
    EXPECT_EQ(request.sampling().steps(), is_small ? 3 : 20);
    small += is_small ? 1 : 0;
  }
  EXPECT_NEAR(small, 7500, 200);
}

TEST(LoadPlanTest, LeavesToTheModelWhatIsNotGiven) {
  const v1::GenerateImagesRequest request = MakeLoadPlan(Closed()).value().RequestOf(3).request;
  EXPECT_FALSE(request.image().has_width());
  EXPECT_FALSE(request.sampling().has_steps());
  EXPECT_EQ(request.prompt().text(), "load test 3");
}

TEST(LoadPlanTest, DrawsEndingsByTheirShares) {
  LoadOptions options = Closed();
  options.cancels = 0.1;
  options.cancel_calls = 0.2;
  options.disconnects = 0.05;
  options.deadlines = 0.25;
  options.within = "2s";
  const LoadPlan plan = MakeLoadPlan(options).value();
  std::map<LoadEnding, int> counts;
  double sum_s = 0;
  for (int i = 0; i < 10000; ++i) {
    const PlannedRequest planned = plan.RequestOf(i);
    ++counts[planned.ending];
    EXPECT_GE(planned.leave_after, absl::ZeroDuration());
    EXPECT_LT(planned.leave_after, absl::Seconds(2));
    sum_s += absl::ToDoubleSeconds(planned.leave_after);
  }
  EXPECT_NEAR(counts[LoadEnding::kCancel], 1000, 150);
  EXPECT_NEAR(counts[LoadEnding::kCancelCall], 2000, 200);
  EXPECT_NEAR(counts[LoadEnding::kDisconnect], 500, 120);
  EXPECT_NEAR(counts[LoadEnding::kDeadline], 2500, 220);
  EXPECT_NEAR(counts[LoadEnding::kWait], 4000, 250);
  EXPECT_NEAR(sum_s / 10000, 1, 0.03);
}

TEST(LoadPlanTest, ArrivalsArePoisson) {
  LoadOptions options;
  options.rates = {50, 100};
  options.duration = "10s";
  const LoadPlan plan = MakeLoadPlan(options).value();
  ASSERT_EQ(plan.levels.size(), 2U);
  EXPECT_TRUE(plan.levels[1].open());
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < 20000; ++i) {
    const double gap = absl::ToDoubleSeconds(plan.GapBefore(i, 100));
    sum += gap;
    squares += gap * gap;
  }
  // An exponential distribution's second moment is twice the square of its mean.
  EXPECT_NEAR(sum / 20000, 0.01, 0.0003);
  EXPECT_NEAR(squares / 20000, 2e-4, 1.5e-5);
}

TEST(LoadPlanTest, TakesPromptsFromAFileInTurn) {
  const ScratchFolder folder;
  std::ofstream(folder / "prompts.txt") << "a star\na moon\n";
  LoadOptions options = Closed();
  options.prompts = folder / "prompts.txt";
  const LoadPlan plan = MakeLoadPlan(options).value();
  EXPECT_EQ(plan.RequestOf(0).request.prompt().text(), "a star");
  EXPECT_EQ(plan.RequestOf(3).request.prompt().text(), "a moon");
  options.prompts = "/nowhere/prompts";
  EXPECT_THAT(FaultOf(options), HasSubstr("--prompts"));
}

TEST(LoadPlanTest, NamesTheOptionThatIsWrong) {
  using Spoil = void (*)(LoadOptions&);
  const std::vector<std::pair<Spoil, const char*>> faults = {
      {[](LoadOptions& o) { o.concurrencies.clear(); }, "--concurrency or --rate"},
      {[](LoadOptions& o) { o.rates = {1}; }, "--concurrency or --rate"},
      {[](LoadOptions& o) { o.concurrencies = {0}; }, "--concurrency: 0 is not from 1 to 10000"},
      {[](LoadOptions& o) { o.concurrencies.clear(), o.rates = {-1}; }, "--rate: -1"},
      {[](LoadOptions& o) { o.requests = 0; }, "--duration or --requests"},
      {[](LoadOptions& o) { o.duration = "5s"; }, "--duration or --requests"},
      {[](LoadOptions& o) { o.requests = -5; }, "--requests: -5"},
      {[](LoadOptions& o) { o.mix = {"256:3"}; }, "--mix: \"256:3\""},
      {[](LoadOptions& o) { o.mix = {"256x256:3:0"}; }, "--mix: \"256x256:3:0\""},
      {[](LoadOptions& o) { o.mix = {"256x256:3:nan"}; }, "--mix: \"256x256:3:nan\""},
      {[](LoadOptions& o) { o.cancels = 1.5; }, "--cancels: 1.5"},
      {[](LoadOptions& o) { o.cancels = 0.6, o.deadlines = 0.6; }, "together 1.2"},
      {[](LoadOptions& o) { o.within = "soon"; }, "--within: \"soon\""},
      {[](LoadOptions& o) { o.limit = "0"; }, "--limit: 0 is not above 0"},
      {[](LoadOptions& o) { o.warm_up = "-1s"; }, "--warm-up: -1s"},
      {[](LoadOptions& o) { o.images = 0; }, "--images: 0"},
      {[](LoadOptions& o) { o.connections = 0; }, "--connections: 0"},
      {[](LoadOptions& o) { o.max_in_flight = 0; }, "--max-in-flight: 0"},
  };
  ASSERT_TRUE(MakeLoadPlan(Closed()).ok());
  for (const auto& [spoil, text] : faults) {
    LoadOptions options = Closed();
    spoil(options);
    EXPECT_THAT(FaultOf(options), HasSubstr(text));
  }
}

}  // namespace
}  // namespace patchflow
