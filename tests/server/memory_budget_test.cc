#include "server/memory_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/errors.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kLarge = 4096 * 4096;
const auto kStart = Clock::now();

class MemoryBudgetTest : public ::testing::Test {
 protected:
  void RunOut(int times, const std::string& plan = "plan") {
    for (int i = 0; i < times; ++i) budget_.RanOut(plan, kLarge, kStart);
  }
  bool Allows(int64_t width_px, int64_t height_px, const std::string& plan = "plan") const {
    return budget_.Check(plan, width_px, height_px, kStart).ok();
  }
  MemoryBudget budget_;
};

TEST_F(MemoryBudgetTest, RefusesASizeThatRanOutTwiceAndLargerOnes) {
  RunOut(1);
  EXPECT_TRUE(Allows(4096, 4096)) << "something else may have taken the memory";
  RunOut(1);
  const absl::Status refused = budget_.Check("plan", 8192, 2048, kStart);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused), "GPU_MEMORY_BUDGET");
  EXPECT_EQ(RetryDelayOf(refused), MemoryBudget::kHold);
  EXPECT_EQ(MetadataOf(refused, "limit"), "16777215");
  EXPECT_THAT(std::string(refused.message()), HasSubstr("8192 x 2048 is 16777216 pixels"));
  EXPECT_FALSE(Allows(8192, 8192));
  EXPECT_TRUE(Allows(4096, 4080));
  EXPECT_TRUE(Allows(4096, 4096, "another plan"));
}

TEST_F(MemoryBudgetTest, AnImageThatIsAsLargeMakesItForget) {
  RunOut(5);
  budget_.Fitted("plan", kLarge - 1);
  EXPECT_FALSE(Allows(4096, 4096));
  budget_.Fitted("another plan", kLarge);
  EXPECT_FALSE(Allows(4096, 4096));
  budget_.Fitted("plan", kLarge);
  EXPECT_TRUE(Allows(4096, 4096));
}

TEST_F(MemoryBudgetTest, ForgetsAfterAWhile) {
  RunOut(3);
  const auto later = kStart + ToClock(MemoryBudget::kHold) + std::chrono::seconds(1);
  EXPECT_TRUE(budget_.Check("plan", 4096, 4096, later).ok());
  budget_.RanOut("plan", kLarge, later);
  EXPECT_TRUE(budget_.Check("plan", 4096, 4096, later).ok()) << "counted anew";
}

}  // namespace
}  // namespace patchflow
