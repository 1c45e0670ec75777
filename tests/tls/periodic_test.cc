#include "tls/periodic.h"

#include <gtest/gtest.h>

#include <atomic>

#include "absl/time/clock.h"

namespace patchflow {
namespace {

TEST(PeriodicTest, ActsAgainAndAgainUntilItIsDestroyed) {
  std::atomic<int> calls{0};
  {
    const Periodic periodic(absl::Milliseconds(5), [&] { ++calls; });
    const absl::Time until = absl::Now() + absl::Seconds(20);
    while (calls < 3 && absl::Now() < until) {
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  const int then = calls;
  EXPECT_GE(then, 3);
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(calls, then);
}

TEST(PeriodicTest, DoesNotMakeItsOwnerWaitForThePeriod) {
  const absl::Time begin = absl::Now();
  {
    const Periodic periodic(absl::Hours(1), [] { FAIL() << "called before a period"; });
  }
  EXPECT_LT(absl::Now() - begin, absl::Minutes(1));
}

}  // namespace
}  // namespace patchflow
