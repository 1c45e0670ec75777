#include "server/timer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/server/generations.h"

namespace patchflow {
namespace {

TEST(TimerTest, CallsInOrderOfTime) {
  Timer timer;
  std::mutex mutex;
  std::vector<int> order;
  const auto note = [&](int i) {
    return [&, i] {
      std::lock_guard<std::mutex> lock(mutex);
      order.push_back(i);
    };
  };
  timer.After(absl::Milliseconds(60), note(3));
  timer.After(absl::Milliseconds(40), note(2));
  timer.After(absl::Milliseconds(20), note(1));
  ASSERT_TRUE(Eventually([&] {
    std::lock_guard<std::mutex> lock(mutex);
    return order.size() == 3;
  }));
  EXPECT_THAT(order, ::testing::ElementsAre(1, 2, 3));
}

TEST(TimerTest, DoesNotCallWhatWasCancelled) {
  Timer timer;
  std::atomic<int> calls = 0;
  const Timer::Id id = timer.After(absl::Milliseconds(30), [&] { ++calls; });
  timer.Cancel(id);
  timer.Cancel(id);
  timer.Cancel(0);
  std::atomic<bool> later = false;
  timer.After(absl::Milliseconds(60), [&] { later = true; });
  ASSERT_TRUE(Eventually([&] { return later.load(); }));
  EXPECT_EQ(calls, 0);
}

TEST(TimerTest, MayBeSetAgainFromItsOwnCall) {
  Timer timer;
  std::atomic<int> calls = 0;
  std::function<void()> again = [&] {
    if (++calls < 3) {
      timer.After(absl::Milliseconds(1), again);
    }
  };
  timer.After(absl::Milliseconds(1), again);
  EXPECT_TRUE(Eventually([&] { return calls == 3; }));
}

TEST(TimerTest, DropsWhatWaitsWhenItEnds) {
  std::atomic<int> calls = 0;
  {
    Timer timer;
    timer.After(absl::Seconds(60), [&] { ++calls; });
  }
  EXPECT_EQ(calls, 0);
}

}  // namespace
}  // namespace patchflow
