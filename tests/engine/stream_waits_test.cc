#include "engine/stream_waits.h"

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace patchflow {
namespace {

std::vector<int64_t> Sampled(int64_t every, int replays) {
  ReplaySampler sampler(every);
  std::vector<int64_t> stands_for;
  for (int i = 0; i < replays; ++i) stands_for.push_back(sampler.Next());
  return stands_for;
}

TEST(ReplaySamplerTest, TimesTheFirstReplayAndEveryNthAfterIt) {
  EXPECT_EQ(Sampled(3, 8), (std::vector<int64_t>{1, 0, 0, 3, 0, 0, 3, 0}));
  EXPECT_EQ(Sampled(1, 3), (std::vector<int64_t>{1, 1, 1}));
}

TEST(ReplaySamplerTest, StandsForEveryReplayOnce) {
  for (const int64_t every : {1, 2, 5, 16}) {
    const std::vector<int64_t> stands_for = Sampled(every, 1 + 7 * static_cast<int>(every));
    EXPECT_EQ(std::accumulate(stands_for.begin(), stands_for.end(), int64_t{0}), 1 + 7 * every);
  }
}

TEST(StreamWaitsTest, TimesOneReplayInSixteenUnlessTold) {
  EXPECT_EQ(ReplaysToOneTimed(), 16);
  TimeOneReplayIn(4);
  EXPECT_EQ(ReplaysToOneTimed(), 4);
  TimeOneReplayIn(16);
}

TEST(StreamWaitsTest, RefusesFewerThanNoReplays) {
  EXPECT_THROW(TimeOneReplayIn(-1), c10::Error);
  EXPECT_EQ(ReplaysToOneTimed(), 16);
}

}  // namespace
}  // namespace patchflow
