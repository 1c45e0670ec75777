#include "client/load_timer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <vector>

#include "absl/time/clock.h"

namespace patchflow {
namespace {

TEST(LoadTimerTest, RunsInTheOrderOfTime) {
  std::vector<int> order;
  std::promise<void> done;
  LoadTimer timer;
  const absl::Time now = absl::Now();
  timer.At(now + absl::Milliseconds(60), [&] {
    order.push_back(3);
    done.set_value();
  });
  timer.At(now + absl::Milliseconds(40), [&] { order.push_back(2); });
  timer.At(now - absl::Seconds(1), [&] { order.push_back(1); });
  ASSERT_EQ(done.get_future().wait_for(std::chrono::seconds(10)), std::future_status::ready);
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
  EXPECT_GE(absl::Now(), now + absl::Milliseconds(60));
}

TEST(LoadTimerTest, AFunctionMaySetTheNext) {
  std::atomic<int> runs = 0;
  std::promise<void> done;
  LoadTimer timer;
  std::function<void()> again = [&] {
    if (++runs == 100) return done.set_value();
    timer.At(absl::Now(), again);
  };
  timer.At(absl::Now(), again);
  EXPECT_EQ(done.get_future().wait_for(std::chrono::seconds(10)), std::future_status::ready);
}

TEST(LoadTimerTest, WhatIsNotDueByItsEndNeverRuns) {
  std::atomic<bool> ran = false;
  {
    LoadTimer timer;
    timer.At(absl::Now() + absl::Hours(1), [&] { ran = true; });
  }
  EXPECT_FALSE(ran);
}

}  // namespace
}  // namespace patchflow
