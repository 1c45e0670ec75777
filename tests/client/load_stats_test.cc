#include "client/load_stats.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "client/server_error.h"
#include "tests/client/fake_service.h"

namespace patchflow {
namespace {

TEST(PercentilesTest, QuantilesAreRightWithinHalfAPercent) {
  Percentiles times;
  for (int i = 1; i <= 10000; ++i) times.Add(i * 1e-3);
  EXPECT_EQ(times.count(), 10000);
  EXPECT_NEAR(times.Quantile(0.5), 5, 0.025);
  EXPECT_NEAR(times.Quantile(0.99), 9.9, 0.05);
  EXPECT_NEAR(times.Quantile(0.001), 0.01, 0.00005);
  EXPECT_EQ(times.Quantile(1), 10);
  EXPECT_EQ(times.max(), 10);
  EXPECT_NEAR(times.mean(), 5.0005, 1e-9);
}

TEST(PercentilesTest, OneTimeIsAllOfThem) {
  Percentiles times;
  EXPECT_EQ(times.Quantile(0.5), 0);
  times.Add(0.25);
  EXPECT_NEAR(times.Quantile(0.5), 0.25, 0.00125);
  EXPECT_EQ(times.Json()["count"], 1);
  times.Add(-1);  // A clock that was set back.
  EXPECT_NEAR(times.Quantile(0.01), 1e-6, 1e-8);
}

LoadOutcome Success(double total_s, absl::Time due) {
  LoadOutcome outcome;
  outcome.due = due;
  outcome.accept_s = 0.001;
  outcome.wait_s = 0.5;
  outcome.total_s = total_s;
  outcome.finished = true;
  outcome.attempts = 1;
  outcome.images.resize(2);
  return outcome;
}

TEST(LoadStatsTest, GoodputIsWhatSucceedsWithinTheLimit) {
  const absl::Time end = absl::UnixEpoch() + absl::Seconds(10);
  LoadStats stats;
  stats.window_s = 10;
  stats.Add(Success(1, end - absl::Seconds(5)), absl::Seconds(2), end);
  stats.Add(Success(3, end - absl::Seconds(5)), absl::Seconds(2), end);
  stats.Add(Success(1, end - absl::Seconds(0.5)), absl::Seconds(2), end);  // Ends after the window.
  EXPECT_EQ(stats.succeeded(), 3);
  EXPECT_EQ(stats.good, 2);
  EXPECT_DOUBLE_EQ(stats.throughput_hz(), 0.2);
  EXPECT_DOUBLE_EQ(stats.goodput_hz(), 0.1);
  EXPECT_EQ(stats.images, 6);
}

TEST(LoadStatsTest, OutcomesAreByCodeAndReason) {
  LoadStats stats;
  LoadOutcome refused;
  refused.total_s = 0.001;
  refused.status = StatusOf(ErrorStatus(grpc::RESOURCE_EXHAUSTED, "QUEUE_FULL", "full", 1));
  stats.Add(refused, absl::Seconds(1), absl::InfiniteFuture());
  refused.status = absl::CancelledError();
  stats.Add(refused, absl::Seconds(1), absl::InfiniteFuture());
  LoadOutcome again = Success(1, absl::UnixEpoch());
  again.attempts = 2;
  stats.Add(again, absl::Seconds(1), absl::InfiniteFuture());
  EXPECT_EQ(stats.outcomes.at("RESOURCE_EXHAUSTED/QUEUE_FULL").total.count(), 1);
  EXPECT_EQ(stats.outcomes.at("RESOURCE_EXHAUSTED/QUEUE_FULL").wait.count(), 0);
  EXPECT_EQ(stats.outcomes.at("CANCELLED").total.count(), 1);
  EXPECT_EQ(stats.outcomes.at("OK").wait.count(), 1);
  EXPECT_EQ(stats.ended(), 3);
  EXPECT_EQ(stats.succeeded(), 1);
  EXPECT_EQ(stats.reruns, 1);
  EXPECT_EQ(stats.broken(), 0);
}

}  // namespace
}  // namespace patchflow
