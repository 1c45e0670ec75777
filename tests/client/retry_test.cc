#include "client/retry.h"

#include <gtest/gtest.h>

#include "client/server_error.h"
#include "tests/client/fake_service.h"

namespace patchflow {
namespace {

const absl::Time kStart = absl::UnixEpoch();
const absl::Time kLate = kStart + absl::Hours(1);

absl::Status Error(grpc::StatusCode code, double retry_s = -1) {
  return StatusOf(ErrorStatus(code, "REASON", "message", retry_s));
}

TEST(RetrierTest, TriesUnavailableAgainWithGrowingDelays) {
  Retrier retrier({.retries = 8}, kLate);
  absl::Duration longest = absl::Milliseconds(250);
  for (int i = 0; i < 8; ++i) {
    const auto delay = retrier.NextDelay(Error(grpc::UNAVAILABLE), kStart);
    ASSERT_TRUE(delay.has_value());
    EXPECT_LE(*delay, longest);
    EXPECT_GE(*delay, 0.75 * longest);
    longest = std::min(2 * longest, absl::Seconds(8));
  }
  EXPECT_EQ(retrier.retries(), 8);
  EXPECT_FALSE(retrier.NextDelay(Error(grpc::UNAVAILABLE), kStart).has_value());
}

TEST(RetrierTest, KeepsToRetryInfo) {
  Retrier retrier({}, kLate);
  EXPECT_EQ(retrier.NextDelay(Error(grpc::UNAVAILABLE, 2.5), kStart), absl::Seconds(2.5));
  EXPECT_EQ(retrier.NextDelay(Error(grpc::RESOURCE_EXHAUSTED, 30), kStart), absl::Seconds(30));
  EXPECT_EQ(retrier.NextDelay(Error(grpc::RESOURCE_EXHAUSTED, 0), kStart), absl::ZeroDuration());
}

TEST(RetrierTest, TriesNothingElseAgain) {
  Retrier retrier({}, kLate);
  EXPECT_FALSE(retrier.NextDelay(Error(grpc::RESOURCE_EXHAUSTED), kStart).has_value());
  for (grpc::StatusCode code :
       {grpc::INVALID_ARGUMENT, grpc::NOT_FOUND, grpc::ALREADY_EXISTS, grpc::INTERNAL,
        grpc::DEADLINE_EXCEEDED, grpc::CANCELLED, grpc::DATA_LOSS, grpc::ABORTED}) {
    EXPECT_FALSE(retrier.NextDelay(Error(code, 1), kStart).has_value()) << code;
  }
  EXPECT_EQ(retrier.retries(), 0);
}

TEST(RetrierTest, DoesNotWaitPastTheDeadline) {
  Retrier retrier({}, kStart + absl::Seconds(10));
  EXPECT_FALSE(retrier.NextDelay(Error(grpc::UNAVAILABLE, 10), kStart).has_value());
  EXPECT_TRUE(retrier.NextDelay(Error(grpc::UNAVAILABLE, 9), kStart).has_value());
  EXPECT_FALSE(retrier.NextDelay(Error(grpc::UNAVAILABLE), kStart + absl::Seconds(10)).has_value());
}

TEST(RetrierTest, NoRetriesMeansNone) {
  Retrier retrier({.retries = 0}, kLate);
  EXPECT_FALSE(retrier.NextDelay(Error(grpc::UNAVAILABLE, 1), kStart).has_value());
}

}  // namespace
}  // namespace patchflow
