#include "client/interrupt.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <thread>

#include "absl/time/clock.h"

namespace patchflow {
namespace {

TEST(InterruptTest, WakesWhoSleeps) {
  Interrupt interrupt;
  const absl::Time start = absl::Now();
  std::jthread other([&] {
    absl::SleepFor(absl::Milliseconds(20));
    interrupt.Trigger();
  });
  EXPECT_TRUE(interrupt.WaitFor(absl::Seconds(30)));
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  EXPECT_TRUE(interrupt.WaitFor(absl::Seconds(30)));
}

TEST(InterruptTest, SleepEndsInTime) {
  Interrupt interrupt;
  EXPECT_FALSE(interrupt.WaitFor(absl::Milliseconds(1)));
  EXPECT_FALSE(interrupt.triggered());
}

TEST(InterruptTest, RunsTheActionOnceWhileItsGuardLives) {
  Interrupt interrupt;
  int runs = 0;
  {
    const Interrupt::Guard guard(interrupt, [&] { ++runs; });
  }
  {
    const Interrupt::Guard guard(interrupt, [&] { ++runs; });
    interrupt.Trigger();
    interrupt.Trigger();
    EXPECT_EQ(runs, 1);
  }
  const Interrupt::Guard late(interrupt, [&] { ++runs; });
  EXPECT_EQ(runs, 2);
}

class SignalWatcherDeathTest : public testing::TestWithParam<int> {};

TEST_P(SignalWatcherDeathTest, FirstSignalTriggersAndSecondKills) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto twice = [](int number) {
    Interrupt interrupt;
    const SignalWatcher watcher(interrupt);
    kill(getpid(), number);
    if (!interrupt.WaitFor(absl::Seconds(20))) _exit(1);
    kill(getpid(), number);
    absl::SleepFor(absl::Seconds(20));
    _exit(2);
  };
  EXPECT_EXIT(twice(GetParam()), testing::KilledBySignal(GetParam()), "");
}
INSTANTIATE_TEST_SUITE_P(Signals, SignalWatcherDeathTest, testing::Values(SIGINT, SIGTERM));

TEST(SignalWatcherDeathTest, EndsWithoutSignals) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto none = [] {
    {
      Interrupt interrupt;
      const SignalWatcher watcher(interrupt);
    }
    _exit(0);
  };
  EXPECT_EXIT(none(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace patchflow
