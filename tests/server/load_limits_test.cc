#include "server/load_limits.h"

#include <gtest/gtest.h>

#include <thread>

namespace patchflow {
namespace {

worker::v1::DescribeResponse Took(absl::Duration load, absl::Duration warm_up) {
  worker::v1::DescribeResponse info;
  *info.mutable_load_time() = ToProto(load + warm_up);
  *info.mutable_warmup_time() = ToProto(warm_up);
  return info;
}

Supervision Rules(absl::Duration least, absl::Duration most) {
  Supervision rules;
  rules.phase_timeout = least;
  rules.load_timeout = most;
  return rules;
}

TEST(LoadLimitsTest, WhatWasNeverMeasuredHasTheWholeTime) {
  const LoadLimits limits(Rules(absl::Seconds(10), absl::Minutes(20)));
  EXPECT_EQ(limits.Load(), absl::Minutes(20));
  EXPECT_EQ(limits.WarmUp(), absl::Minutes(20));
}

TEST(LoadLimitsTest, AreTenMediansEachButNeverBelowTheLeastNorAboveTheMost) {
  LoadLimits limits(Rules(absl::Seconds(10), absl::Minutes(20)));
  for (const int seconds : {3, 100, 4}) {
    limits.Record(Took(absl::Seconds(seconds), absl::Milliseconds(200)));
  }
  EXPECT_EQ(limits.Load(), absl::Seconds(40));
  EXPECT_EQ(limits.WarmUp(), absl::Seconds(10));
  for (int i = 0; i < 5; ++i) {
    limits.Record(Took(absl::Minutes(5), absl::Seconds(2)));
  }
  EXPECT_EQ(limits.Load(), absl::Minutes(20));
  EXPECT_EQ(limits.WarmUp(), absl::Seconds(20));
}

TEST(LoadLimitsTest, ForgetWhatIsLongAgo) {
  LoadLimits limits(Rules(absl::Seconds(1), absl::Hours(1)));
  for (int i = 0; i < 100; ++i) {
    limits.Record(Took(absl::Minutes(5), absl::Seconds(1)));
  }
  for (int i = 0; i < 16; ++i) {
    limits.Record(Took(absl::Seconds(1), absl::Seconds(1)));
  }
  EXPECT_EQ(limits.Load(), absl::Seconds(10));
}

TEST(LoadProgressTest, TheFaultNamesThePhaseThatTakesTooLong) {
  LoadLimits limits(Rules(absl::Milliseconds(50), absl::Hours(1)));
  limits.Record(Took(absl::ZeroDuration(), absl::ZeroDuration()));
  LoadProgress loading(Clock::now());
  EXPECT_FALSE(loading.Lateness(limits).has_value());
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  ASSERT_TRUE(loading.Lateness(limits).has_value());
  EXPECT_EQ(loading.Lateness(limits)->detail.watchdog_phase, "load");
  loading.See(worker::v1::WORKER_STATE_WARMING);
  EXPECT_FALSE(loading.Lateness(limits).has_value()) << "a limit of its own, from now on";
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  loading.See(worker::v1::WORKER_STATE_WARMING);
  ASSERT_TRUE(loading.Lateness(limits).has_value());
  EXPECT_EQ(loading.Lateness(limits)->detail.watchdog_phase, "warm_up");
  EXPECT_EQ(loading.Lateness(limits)->why, "not ready after 50ms, in warm_up");
}

TEST(LoadProgressTest, BothTogetherHaveNoLongerThanTheWholeTime) {
  const LoadLimits limits(Rules(absl::Milliseconds(50), absl::Milliseconds(60)));
  LoadProgress loading(Clock::now() - std::chrono::milliseconds(50));
  loading.See(worker::v1::WORKER_STATE_WARMING);
  EXPECT_FALSE(loading.Lateness(limits).has_value());
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  ASSERT_TRUE(loading.Lateness(limits).has_value());
  EXPECT_EQ(loading.Lateness(limits)->kind, LossKind::kLoadTimeout);
}

}  // namespace
}  // namespace patchflow
