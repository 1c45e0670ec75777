#include "parallel/pipefusion.h"

#include <gmock/gmock.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "tests/parallel/method_case.h"
#include "tests/parallel/pipefusion_oracle.h"

namespace patchflow {
namespace {

Tensor RunOracle(const Transformer& whole, const DenoiseJob& job, const Layout& layout) {
  return PipeFusionOracle(whole, job, layout.patches, layout.warmup_steps);
}

std::string LayoutOf(int stages, int patches, int warmup_steps) {
  return absl::StrCat("pipefusion=", stages, ",patches=", patches, ",warmup_steps=", warmup_steps);
}

// Blocks that don't divide by the stages.
ToyOptions ToyOf(int stages) { return {.num_blocks = stages < 5 ? 5 : 9}; }

class StalePipeFusion : public testing::TestWithParam<MethodCase> {};

TEST_P(StalePipeFusion, EqualsItsOracle) { ExpectEqualsOracle(GetParam(), RunOracle); }

// 48 and 35 tokens: patches that are even, and that differ by one token. Stages 1 to 8 with patches
// 1, 2, 3, N, 2N, 4N: fewer, as many and more.
std::vector<MethodCase> StaleCases() {
  std::vector<MethodCase> cases;
  for (const int stages : {1, 2, 3, 4, 8}) {
    for (const int patches : std::set<int>{1, 2, 3, stages, 2 * stages, 4 * stages}) {
      if (stages * patches == 1) {
        continue;  // That is serial.
      }
      for (const int warmup_steps : {1, 2, 4}) {
        const size_t turn = cases.size();
        const auto schedulers = Sampler::Names();
        cases.push_back({LayoutOf(stages, patches, warmup_steps),
                         kSameOrder,
                         {.grid = turn % 2 == 0 ? TokenGrid{5, 7} : TokenGrid{6, 8},
                          .scheduler = schedulers[turn / 2 % schedulers.size()]},
                         ToyOf(stages)});
      }
    }
  }
  for (const std::string_view scheduler : Sampler::Names()) {
    cases.push_back({LayoutOf(2, 5, 1), kSameOrder, {.scheduler = scheduler, .images = 2}});
    cases.push_back({LayoutOf(2, 3, 2), kSameOrder, {.scheduler = scheduler, .guidance_scale = 1}});
  }
  cases.push_back({"pipefusion=3,patches=4,warmup_steps=1,blocks=1+3+1", kSameOrder});
  cases.push_back({LayoutOf(2, 4, 1), kSameOrder, {.grid = {9, 7}, .steps = 4}, {}, true});
  cases.push_back({LayoutOf(3, 3, 2),
                   kSameOrder,
                   {.grid = {8, 8}, .scheduler = "euler", .steps = 4},
                   {},
                   true});
  return ThatFit(cases);
}
INSTANTIATE_TEST_SUITE_P(Layouts, StalePipeFusion, testing::ValuesIn(StaleCases()), CaseName);

// Ranks that share a patch have its keys in another order than the oracle. The last six are on 8.
std::vector<MethodCase> MixedCases() {
  const JobOptions ragged{.grid = {5, 7}};
  return ThatFit({
      {LayoutOf(2, 3, 1) + ",ulysses=2", kReordered, ragged},
      {LayoutOf(2, 3, 2) + ",ring=2", kReordered, ragged},
      {LayoutOf(2, 5, 1) + ",tensor=2", kReordered, ragged, {.num_heads = 5}},
      {LayoutOf(2, 5, 1) + ",guidance=2", kSameOrder, ragged},
      {LayoutOf(1, 4, 1) + ",ulysses=3", kReordered, ragged},
      {LayoutOf(2, 4, 1) + ",ulysses=2,guidance=2", kReordered, ragged},
      {LayoutOf(2, 3, 2) + ",ulysses=2,ring=2", kReordered, {.grid = {5, 7}, .scheduler = "euler"}},
      {LayoutOf(2, 4, 1) + ",ring=2,tensor=2", kReordered, {.scheduler = "ddim", .images = 2}},
      {LayoutOf(2, 5, 1) + ",ulysses=4", kReordered, ragged, {.num_heads = 8}},
      {LayoutOf(4, 8, 1) + ",guidance=2", kSameOrder, ragged},
      {LayoutOf(2, 3, 1) + ",ulysses=2,guidance=2",
       kReordered,
       {.grid = {9, 7}, .steps = 3},
       {},
       true},
  });
}
INSTANTIATE_TEST_SUITE_P(Mixed, StalePipeFusion, testing::ValuesIn(MixedCases()), CaseName);

class SynchronousPipeFusion : public testing::TestWithParam<MethodCase> {};

TEST_P(SynchronousPipeFusion, EqualsSerial) { ExpectEqualsSerial(GetParam()); }

// Stages do what one device does, on the whole image; more warm-up steps than steps. A single patch
// is never stale.
std::vector<MethodCase> SynchronousCases() {
  return ThatFit({
      {LayoutOf(1, 4, 6)},
      {LayoutOf(2, 4, 6)},
      {LayoutOf(2, 8, 6), kSameOrder, {.grid = {5, 7}, .scheduler = "ddim", .images = 2}},
      {LayoutOf(3, 3, 9), kSameOrder, {.scheduler = "euler", .guidance_scale = 1}},
      {LayoutOf(4, 2, 6), kSameOrder, {.grid = {5, 7}}},
      {LayoutOf(8, 8, 6), kSameOrder, {.grid = {5, 7}}, ToyOf(8)},
      {LayoutOf(2, 4, 6) + ",ulysses=2,guidance=2", kReordered, {.grid = {5, 7}}},
      {LayoutOf(2, 3, 6) + ",ring=2,tensor=2", kReordered},
      {LayoutOf(2, 1, 1)},
      {LayoutOf(4, 1, 2), kSameOrder, {.grid = {5, 7}, .scheduler = "ddim"}},
      {LayoutOf(2, 4, 3), kSameOrder, {.grid = {16, 16}, .steps = 3}, {}, true},
      {LayoutOf(3, 1, 1), kSameOrder, {.grid = {9, 7}, .scheduler = "ddim", .steps = 3}, {}, true},
  });
}
INSTANTIATE_TEST_SUITE_P(Layouts, SynchronousPipeFusion, testing::ValuesIn(SynchronousCases()),
                         CaseName);

TEST(PipeFusionTest, RequestsLeaveNothingBehind) {
  ExpectRequestsLeaveNothingBehind({LayoutOf(2, 3, 2)});
  ExpectRequestsLeaveNothingBehind({LayoutOf(1, 3, 1)});
  for (const MethodCase& c : ThatFit({{LayoutOf(2, 3, 2) + ",ulysses=2,guidance=2"}})) {
    ExpectRequestsLeaveNothingBehind(c);
  }
}

}  // namespace
}  // namespace patchflow
