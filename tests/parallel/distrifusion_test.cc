#include "parallel/distrifusion.h"

#include <gmock/gmock.h>

#include "absl/strings/str_cat.h"
#include "tests/parallel/distrifusion_oracle.h"
#include "tests/parallel/method_case.h"

namespace patchflow {
namespace {

Tensor RunOracle(const Transformer& whole, const DenoiseJob& job, const Layout& layout) {
  return DistriFusionOracle(whole, job, layout.distrifusion, layout.warmup_steps);
}

std::string LayoutOf(int ranks, int warmup_steps) {
  return absl::StrCat("distrifusion=", ranks, ",warmup_steps=", warmup_steps);
}

class StaleDistriFusion : public testing::TestWithParam<MethodCase> {};

TEST_P(StaleDistriFusion, EqualsItsOracle) { ExpectEqualsOracle(GetParam(), RunOracle); }

// 48 and 35 tokens: shares that are even, and that differ by one token.
std::vector<MethodCase> StaleCases() {
  std::vector<MethodCase> cases;
  for (const int ranks : {2, 3, 4, 8}) {
    for (const int warmup_steps : {1, 2, 4}) {
      for (const std::string_view scheduler : Sampler::Names()) {
        const TokenGrid grid = warmup_steps == 2 ? TokenGrid{6, 8} : TokenGrid{5, 7};
        cases.push_back({LayoutOf(ranks, warmup_steps),
                         kSameOrder,
                         {.grid = grid, .scheduler = scheduler, .images = ranks == 3 ? 2 : 1}});
      }
    }
  }
  cases.push_back({LayoutOf(2, 1), kSameOrder, {.guidance_scale = 1}});
  const JobOptions ragged{.grid = {5, 7}};
  cases.push_back({LayoutOf(3, 1) + ",tensor=2", kReordered, ragged});
  cases.push_back({LayoutOf(4, 2) + ",guidance=2", kSameOrder, ragged});
  cases.push_back({LayoutOf(2, 1) + ",tensor=2,guidance=2", kReordered, ragged});
  cases.push_back({LayoutOf(2, 1), kSameOrder, {.grid = {9, 7}, .steps = 4}, {}, true});
  cases.push_back(
      {LayoutOf(3, 2), kSameOrder, {.grid = {8, 8}, .scheduler = "euler", .steps = 4}, {}, true});
  return ThatFit(cases);
}
INSTANTIATE_TEST_SUITE_P(Layouts, StaleDistriFusion, testing::ValuesIn(StaleCases()), CaseName);

class SynchronousDistriFusion : public testing::TestWithParam<MethodCase> {};

TEST_P(SynchronousDistriFusion, EqualsSerial) { ExpectEqualsSerial(GetParam()); }

// Keys of the whole image in raster order, but MKL has other kernels for fewer queries. More
// warm-up steps than steps.
std::vector<MethodCase> SynchronousCases() {
  return ThatFit({
      {LayoutOf(2, 6), kReordered},
      {LayoutOf(3, 9), kReordered, {.grid = {5, 7}, .scheduler = "ddim"}},
      {LayoutOf(4, 6), kReordered, {.scheduler = "euler", .images = 2}},
      {LayoutOf(8, 6), kReordered, {.grid = {5, 7}}},
      {LayoutOf(2, 6) + ",tensor=2,guidance=2", kReordered, {.grid = {5, 7}}},
      {LayoutOf(2, 3), kReordered, {.grid = {16, 16}, .steps = 3}, {}, true},
      {LayoutOf(4, 3), kReordered, {.grid = {9, 7}, .scheduler = "ddim", .steps = 3}, {}, true},
  });
}
INSTANTIATE_TEST_SUITE_P(Layouts, SynchronousDistriFusion, testing::ValuesIn(SynchronousCases()),
                         CaseName);

TEST(DistriFusionTest, RequestsLeaveNothingBehind) {
  ExpectRequestsLeaveNothingBehind({LayoutOf(2, 2)});
}

}  // namespace
}  // namespace patchflow
