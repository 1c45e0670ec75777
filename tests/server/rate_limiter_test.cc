#include "server/rate_limiter.h"

#include <gtest/gtest.h>

#include "server/errors.h"

namespace patchflow {
namespace {

class RateLimiterTest : public ::testing::Test {
 protected:
  void Pass(int ms) { now_ += std::chrono::milliseconds(ms); }

  Clock::time_point now_ = Clock::now();
  RateLimiter limiter_{2, 3, [this] { return now_; }};
};

TEST_F(RateLimiterTest, AllowsABurstAndThenTheRate) {
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(limiter_.Take("a").ok()) << i;
  }
  EXPECT_FALSE(limiter_.Take("a").ok());
  Pass(500);
  EXPECT_TRUE(limiter_.Take("a").ok());
  EXPECT_FALSE(limiter_.Take("a").ok());
}

TEST_F(RateLimiterTest, SaysWhenToComeBack) {
  for (int i = 0; i < 3; ++i) {
    (void)limiter_.Take("a");
  }
  const absl::Status status = limiter_.Take("a");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "RATE_LIMITED");
  EXPECT_EQ(MetadataOf(status, "requests_per_second"), "2");
  EXPECT_TRUE(status.GetPayload(kQuotaFailureUrl).has_value());
  const auto delay = RetryDelayOf(status);
  ASSERT_TRUE(delay.has_value());
  EXPECT_GE(*delay, absl::Milliseconds(400)) << "half a second, 20 % more or less";
  EXPECT_LE(*delay, absl::Milliseconds(600));
}

TEST_F(RateLimiterTest, CountsEachClientAlone) {
  for (int i = 0; i < 4; ++i) {
    (void)limiter_.Take("a");
  }
  EXPECT_TRUE(limiter_.Take("b").ok());
}

TEST_F(RateLimiterTest, ForgetsClientsThatSentNothingLately) {
  for (int i = 0; i < 20000; ++i) {
    (void)limiter_.Take("client" + std::to_string(i));
    Pass(1);
  }
  EXPECT_LE(limiter_.clients(), 16384U);
}

TEST(RateLimiterOffTest, TakesEverything) {
  RateLimiter off(0, 1);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_TRUE(off.Take("a").ok());
  }
  EXPECT_EQ(off.clients(), 0U);
}

}  // namespace
}  // namespace patchflow
