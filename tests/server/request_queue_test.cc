#include "server/request_queue.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/server/generations.h"

namespace patchflow {
namespace {

constexpr absl::Duration kNow = absl::ZeroDuration();

std::shared_ptr<Generation> Queued(const std::string& id,
                                   v1::Priority priority = v1::PRIORITY_NORMAL,
                                   const std::string& plan = "plan-1") {
  GenerationSpec spec = TestSpec(id);
  spec.priority = priority;
  spec.accepted.set_plan_digest(plan);
  return MakeGeneration(std::move(spec));
}

std::string PopId(RequestQueue& queue, const std::string& plan = "plan-1") {
  auto generation = queue.Pop(plan, kNow);
  return generation == nullptr ? "" : generation->spec().request_id;
}

TEST(RequestQueueTest, RunsPriorityThenArrival) {
  RequestQueue queue(10);
  ASSERT_TRUE(queue.Push(Queued("low", v1::PRIORITY_LOW)).ok());
  ASSERT_TRUE(queue.Push(Queued("first")).ok());
  ASSERT_TRUE(queue.Push(Queued("second")).ok());
  ASSERT_TRUE(queue.Push(Queued("high", v1::PRIORITY_HIGH)).ok());
  EXPECT_EQ(PopId(queue), "high");
  EXPECT_EQ(PopId(queue), "first");
  EXPECT_EQ(PopId(queue), "second");
  EXPECT_EQ(PopId(queue), "low");
  EXPECT_EQ(PopId(queue), "");
}

TEST(RequestQueueTest, RunsWhatAWorkerLostFirst) {
  RequestQueue queue(10);
  ASSERT_TRUE(queue.Push(Queued("high", v1::PRIORITY_HIGH)).ok());
  queue.PushAgain(Queued("again", v1::PRIORITY_LOW));
  EXPECT_EQ(PopId(queue), "again");
}

TEST(RequestQueueTest, RefusesWhenFull) {
  RequestQueue queue(2);
  ASSERT_TRUE(queue.Push(Queued("a")).ok());
  ASSERT_TRUE(queue.Push(Queued("b")).ok());
  const absl::Status status = queue.Push(Queued("c"));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "QUEUE_FULL");
  EXPECT_EQ(MetadataOf(status, "depth"), "2");
  EXPECT_EQ(MetadataOf(status, "capacity"), "2");
  queue.PushAgain(Queued("again"));
  EXPECT_EQ(queue.size(), 3U);
}

TEST(RequestQueueTest, GivesAGroupOnlyItsPlan) {
  RequestQueue queue(10);
  ASSERT_TRUE(queue.Push(Queued("a", v1::PRIORITY_NORMAL, "plan-2")).ok());
  EXPECT_EQ(PopId(queue, "plan-1"), "");
  EXPECT_EQ(queue.SizeOf("plan-2"), 1U);
  EXPECT_EQ(PopId(queue, "plan-2"), "a");
}

TEST(RequestQueueTest, CountsWhoIsAhead) {
  RequestQueue queue(10);
  ASSERT_TRUE(queue.Push(Queued("high", v1::PRIORITY_HIGH)).ok());
  ASSERT_TRUE(queue.Push(Queued("normal")).ok());
  ASSERT_TRUE(queue.Push(Queued("low", v1::PRIORITY_LOW)).ok());
  EXPECT_EQ(queue.Ahead(Queued("x", v1::PRIORITY_HIGH)).size(), 1U);
  EXPECT_EQ(queue.Ahead(Queued("x")).size(), 2U);
  EXPECT_EQ(queue.Ahead(Queued("x", v1::PRIORITY_LOW)).size(), 3U);
  EXPECT_EQ(queue.Ahead(Queued("x", v1::PRIORITY_LOW, "plan-2")).size(), 0U);
}

TEST(RequestQueueTest, DropsWhatIsRemoved) {
  RequestQueue queue(10);
  auto generation = Queued("a");
  ASSERT_TRUE(queue.Push(generation).ok());
  queue.Remove(*generation);
  queue.Remove(*generation);
  EXPECT_EQ(queue.size(), 0U);
}

TEST(RequestQueueTest, RefusesAfterCloseButGivesWhatItHolds) {
  RequestQueue queue(10);
  ASSERT_TRUE(queue.Push(Queued("a")).ok());
  queue.Close();
  EXPECT_EQ(ReasonOf(queue.Push(Queued("b"))), "DRAINING");
  EXPECT_EQ(PopId(queue), "a");
  const auto began = Clock::now();
  EXPECT_EQ(queue.Pop("plan-1", absl::Seconds(30)), nullptr);
  EXPECT_LT(Clock::now() - began, std::chrono::seconds(5));
}

TEST(RequestQueueTest, WakesWhoWaits) {
  RequestQueue queue(10);
  std::thread pusher([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ASSERT_TRUE(queue.Push(Queued("a")).ok());
  });
  auto generation = queue.Pop("plan-1", absl::Seconds(30));
  pusher.join();
  ASSERT_NE(generation, nullptr);
  std::thread interrupter([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    queue.Interrupt();
  });
  EXPECT_EQ(queue.Pop("plan-1", absl::Seconds(30)), nullptr);
  interrupter.join();
}

TEST(RequestQueueTest, ObeysAnotherOrder) {
  RequestQueue queue(10, [](const QueueEntry& a, const QueueEntry& b, Clock::time_point) {
    return a.generation->spec().request_id > b.generation->spec().request_id;
  });
  ASSERT_TRUE(queue.Push(Queued("a")).ok());
  ASSERT_TRUE(queue.Push(Queued("b")).ok());
  EXPECT_EQ(PopId(queue), "b");
  EXPECT_EQ(queue.InOrder().size(), 1U);
}

TEST(RequestQueueTest, LosesNothingBetweenManyThreads) {
  RequestQueue queue(100000);
  constexpr int kEach = 500;
  std::mutex mutex;
  std::multiset<std::string> popped;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        ASSERT_TRUE(queue.Push(Queued(std::to_string(t) + "/" + std::to_string(i))).ok());
      }
    });
    threads.emplace_back([&] {
      while (auto generation = queue.Pop("plan-1", absl::Milliseconds(300))) {
        std::lock_guard<std::mutex> lock(mutex);
        popped.insert(generation->spec().request_id);
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(popped.size(), 4U * kEach);
  EXPECT_EQ(std::set<std::string>(popped.begin(), popped.end()).size(), 4U * kEach);
}

}  // namespace
}  // namespace patchflow
