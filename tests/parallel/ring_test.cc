#include "parallel/ring.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gmock/gmock.h>

#include "engine/attention.h"
#include "tests/parallel/method_case.h"

namespace patchflow {
namespace {

class Ring : public testing::TestWithParam<MethodCase> {};

TEST_P(Ring, EqualsSerial) { ExpectEqualsSerial(GetParam()); }

std::vector<MethodCase> Cases() {
  return ThatFit({
      {"ring=2", kReordered},
      {"ring=2", kReordered, {.grid = {5, 7}, .scheduler = "ddim", .images = 2}},
      {"ring=3", kReordered, {.grid = {5, 7}, .scheduler = "euler"}, {.num_heads = 5}},
      {"ring=4", kReordered, {.guidance_scale = 1}},
      {"ring=8", kReordered, {.grid = {5, 7}}},
      {"ring=8", kReordered, {.grid = {2, 4}, .scheduler = "ddim"}},
      {"ring=2", kReordered, {.grid = {16, 16}, .steps = 3}, {}, true},
      {"ring=3", kReordered, {.grid = {9, 7}, .scheduler = "euler", .steps = 3}, {}, true},
  });
}
INSTANTIATE_TEST_SUITE_P(Layouts, Ring, testing::ValuesIn(Cases()), CaseName);

TEST(RingTest, RequestsLeaveNothingBehind) { ExpectRequestsLeaveNothingBehind({"ring=2"}); }

// Scores of some hundreds: a merge that exponentiates them overflows.
TEST(RingTest, MergesLargeScores) {
  const int ranks = std::min(3, MaxRanks());
  RunRanks(ranks, [ranks](const Rank& rank) {
    const auto axis = rank.world.Split(0, "ring");
    const auto generator = at::detail::createCPUGenerator(5);
    const auto draw = [&](double scale) {
      return (at::randn({1, 4L * ranks, 2, 8}, generator, at::TensorOptions(at::kFloat)) * scale)
          .to(rank.device);
    };
    const Tensor q = draw(20);
    const Tensor k = draw(20);
    const Tensor v = draw(1);
    const auto own = [&](const Tensor& t) { return t.narrow(1, 4L * rank.index(), 4); };
    RingAttention ring(*axis, std::vector<int64_t>(ranks, 4));
    const Tensor merged = ring.Attend({0, {}, own(q), own(k), own(v)});
    EXPECT_LE(RelativeError(merged.cpu(), Sdpa(own(q), k, v).cpu()), 1e-5);
  });
}

}  // namespace
}  // namespace patchflow
