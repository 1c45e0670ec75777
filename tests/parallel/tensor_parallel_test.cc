#include "parallel/tensor_parallel.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "tests/parallel/method_case.h"

namespace patchflow {
namespace {

class TensorParallel : public testing::TestWithParam<MethodCase> {};

TEST_P(TensorParallel, EqualsSerial) { ExpectEqualsSerial(GetParam()); }

// Heads that divide, and heads of which some ranks hold one more.
std::vector<MethodCase> Cases() {
  return ThatFit({
      {"tensor=2", kReordered},
      {"tensor=2", kReordered, {.grid = {5, 7}, .scheduler = "ddim"}, {.num_heads = 5}},
      {"tensor=3", kReordered, {.scheduler = "euler"}},
      {"tensor=3", kReordered, {.grid = {5, 7}, .images = 2}, {.num_heads = 7}},
      {"tensor=4", kReordered, {.guidance_scale = 1}},
      {"tensor=8", kReordered, {}, {.num_heads = 8}},
      {"tensor=8", kReordered, {.scheduler = "ddim"}, {.num_heads = 9}},
      {"tensor=2", kReordered, {.grid = {16, 16}, .steps = 3}, {}, true},
      {"tensor=3", kReordered, {.grid = {9, 7}, .scheduler = "euler", .steps = 3}, {}, true},
      {"tensor=4", kReordered, {.grid = {8, 8}, .scheduler = "ddim", .steps = 3}, {}, true},
  });
}
INSTANTIATE_TEST_SUITE_P(Layouts, TensorParallel, testing::ValuesIn(Cases()), CaseName);

TEST(TensorParallelTest, RequestsLeaveNothingBehind) {
  ExpectRequestsLeaveNothingBehind({"tensor=2"});
}

TEST(TensorParallelTest, CompletesAPartOfALargerTensor) {
  RunRanks(2, [](const Rank& rank) {
    const auto axis = rank.world.Split(0, "tensor");
    AllReducePartialSum sum(*axis);
    const auto options = at::TensorOptions(at::kFloat).device(rank.device);
    const Tensor whole = at::arange(12, options).view({3, 4}) * (rank.index() + 1);
    const Tensor completed = sum.Complete(whole.narrow(1, 1, 2));
    const Tensor expected = at::arange(12, options).view({3, 4}).narrow(1, 1, 2) * 3;
    EXPECT_TRUE(at::equal(completed, expected));
  });
}

}  // namespace
}  // namespace patchflow
