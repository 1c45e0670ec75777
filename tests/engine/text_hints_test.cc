#include "engine/text_hints.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>

namespace patchflow {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;

TEST(TextHintsTest, HoldsTheNewestAlone) {
  TextHints hints;
  hints.Offer({"a star", ""});
  hints.Offer({"a circle", ""});
  EXPECT_THAT(*hints.Await({}), ElementsAre("a circle", ""));
  hints.Offer({"a square"});
  EXPECT_THAT(*hints.Await({}), ElementsAre("a square"));
}

TEST(TextHintsTest, IsAwaited) {
  TextHints hints;
  auto taken = std::async(std::launch::async, [&] { return hints.Await({}); });
  EXPECT_EQ(taken.wait_for(milliseconds(30)), std::future_status::timeout);
  hints.Offer({"a star"});
  EXPECT_THAT(*taken.get(), ElementsAre("a star"));
}

TEST(TextHintsTest, IsAwaitedUntilItIsStopped) {
  TextHints hints;
  std::stop_source stop;
  auto taken = std::async(std::launch::async, [&] { return hints.Await(stop.get_token()); });
  EXPECT_EQ(taken.wait_for(milliseconds(30)), std::future_status::timeout);
  stop.request_stop();
  EXPECT_FALSE(taken.get().has_value());
  hints.Offer({"too late"});
  EXPECT_FALSE(hints.Await(stop.get_token()).has_value());
}

}  // namespace
}  // namespace patchflow
