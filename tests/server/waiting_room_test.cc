#include "server/waiting_room.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

namespace patchflow {
namespace {

TEST(WaitingRoomTest, RefusesWhatHasNoPlaceAndDoesTheRest) {
  std::promise<void> go;
  const std::shared_future<void> gone = go.get_future().share();
  std::promise<void> began;
  std::atomic<int> done = 0;
  {
    WaitingRoom room(1, 2);
    ASSERT_TRUE(room.Enter([&] {
      began.set_value();
      gone.wait();
      ++done;
    }));
    began.get_future().wait();
    EXPECT_TRUE(room.Enter([&] { ++done; }));
    EXPECT_TRUE(room.Enter([&] { ++done; }));
    EXPECT_FALSE(room.Enter([&] { done += 100; }));
    EXPECT_EQ(done, 0) << "nobody waited";
    go.set_value();
  }
  EXPECT_EQ(done, 3);
}

TEST(WaitingRoomTest, TakesNothingOnceItStopped) {
  WaitingRoom room(1, 2);
  room.Stop();
  EXPECT_FALSE(room.Enter([] {}));
}

TEST(WaitingRoomTest, ThreadsDoNotWaitForEachOther) {
  WaitingRoom room(2, 8);
  std::promise<void> second;
  std::promise<void> first_done;
  ASSERT_TRUE(room.Enter([&] {
    second.get_future().wait();
    first_done.set_value();
  }));
  ASSERT_TRUE(room.Enter([&] { second.set_value(); }));
  EXPECT_EQ(first_done.get_future().wait_for(std::chrono::seconds(10)), std::future_status::ready);
}

}  // namespace
}  // namespace patchflow
