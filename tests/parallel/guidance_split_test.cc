#include "parallel/guidance_split.h"

#include <gmock/gmock.h>

#include "tests/parallel/method_case.h"

namespace patchflow {
namespace {

class GuidanceSplit : public testing::TestWithParam<MethodCase> {};

TEST_P(GuidanceSplit, EqualsSerial) { ExpectEqualsSerial(GetParam()); }

// The branches are combined as on one device; MKL has other kernels for half as many rows.
std::vector<MethodCase> Cases() {
  return ThatFit({
      {"guidance=2"},
      {"guidance=2", kSameOrder, {.grid = {5, 7}, .scheduler = "ddim", .images = 2}},
      {"guidance=2", kSameOrder, {.scheduler = "euler", .guidance_scale = 1}},
      {"guidance=2", kReordered, {.grid = {16, 16}, .steps = 3}, {}, true},
      {"guidance=2", kReordered, {.grid = {9, 7}, .scheduler = "ddim", .steps = 3}, {}, true},
  });
}
INSTANTIATE_TEST_SUITE_P(Layouts, GuidanceSplit, testing::ValuesIn(Cases()), CaseName);

TEST(GuidanceSplitTest, RequestsLeaveNothingBehind) {
  ExpectRequestsLeaveNothingBehind({"guidance=2"});
}

}  // namespace
}  // namespace patchflow
