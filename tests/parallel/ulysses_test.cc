#include "parallel/ulysses.h"

#include <gmock/gmock.h>

#include "tests/parallel/method_case.h"

namespace patchflow {
namespace {

class Ulysses : public testing::TestWithParam<MethodCase> {};

TEST_P(Ulysses, EqualsSerial) { ExpectEqualsSerial(GetParam()); }

// 48 and 35 tokens: shares that are even, and that differ by one token. The toy treats every token
// alike and attention sees keys in raster order, so that nothing is summed in another order but
// what MKL makes of single heads of 9 tokens.
std::vector<MethodCase> Cases() {
  return ThatFit({
      {"serial"},
      {"serial", kSameOrder, {.grid = {5, 7}, .steps = 3}, {}, true},
      {"ulysses=2"},
      {"ulysses=2", kSameOrder, {.grid = {5, 7}, .scheduler = "ddim", .images = 2}},
      {"ulysses=3", kSameOrder, {.scheduler = "euler"}},
      {"ulysses=3", kSameOrder, {.grid = {5, 7}}},
      {"ulysses=4", kSameOrder, {.grid = {5, 7}, .guidance_scale = 1}, {.num_heads = 12}},
      {"ulysses=8", kSameOrder, {}, {.num_heads = 8}},
      {"ulysses=8", kReordered, {.grid = {1, 9}, .scheduler = "ddim"}, {.num_heads = 8}},
      {"ulysses=2", kReordered, {.grid = {16, 16}, .steps = 3}, {}, true},
      {"ulysses=4", kReordered, {.grid = {9, 7}, .scheduler = "euler", .steps = 3}, {}, true},
  });
}
INSTANTIATE_TEST_SUITE_P(Layouts, Ulysses, testing::ValuesIn(Cases()), CaseName);

TEST(UlyssesTest, RequestsLeaveNothingBehind) { ExpectRequestsLeaveNothingBehind({"ulysses=2"}); }

}  // namespace
}  // namespace patchflow
