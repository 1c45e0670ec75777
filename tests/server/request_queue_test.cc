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
  const auto batch = queue.PopBatch(plan, 1, kNow);
  return batch.empty() ? "" : batch.front()->spec().request_id;
}

TEST(RequestQueueTest, RunsPriorityThenArrival) {
  RequestQueue queue({.requests = 10});
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

TEST(RequestQueueTest, TellsWhatRunsNextAndKeepsIt) {
  RequestQueue queue({.requests = 10});
  EXPECT_TRUE(queue.PeekBatch("plan-1", 1).empty());
  ASSERT_TRUE(queue.Push(Queued("other", v1::PRIORITY_HIGH, "plan-2")).ok());
  ASSERT_TRUE(queue.Push(Queued("low", v1::PRIORITY_LOW)).ok());
  ASSERT_TRUE(queue.Push(Queued("normal")).ok());
  EXPECT_EQ(queue.PeekBatch("plan-1", 1).at(0)->spec().request_id, "normal");
  EXPECT_EQ(queue.size(), 3U);
  EXPECT_EQ(PopId(queue), "normal");
  EXPECT_EQ(queue.PeekBatch("plan-1", 1).at(0)->spec().request_id, "low");
}

TEST(RequestQueueTest, RunsWhatAWorkerLostFirst) {
  RequestQueue queue({.requests = 10});
  ASSERT_TRUE(queue.Push(Queued("high", v1::PRIORITY_HIGH)).ok());
  queue.PushAgain(Queued("again", v1::PRIORITY_LOW));
  EXPECT_EQ(PopId(queue), "again");
}

TEST(RequestQueueTest, RefusesWhenFull) {
  RequestQueue queue({.requests = 2});
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
  RequestQueue queue({.requests = 10});
  ASSERT_TRUE(queue.Push(Queued("a", v1::PRIORITY_NORMAL, "plan-2")).ok());
  EXPECT_EQ(PopId(queue, "plan-1"), "");
  EXPECT_EQ(queue.SizeOf("plan-2"), 1U);
  EXPECT_EQ(PopId(queue, "plan-2"), "a");
}

TEST(RequestQueueTest, CountsWhoIsAhead) {
  RequestQueue queue({.requests = 10});
  ASSERT_TRUE(queue.Push(Queued("high", v1::PRIORITY_HIGH)).ok());
  ASSERT_TRUE(queue.Push(Queued("normal")).ok());
  ASSERT_TRUE(queue.Push(Queued("low", v1::PRIORITY_LOW)).ok());
  EXPECT_EQ(queue.Ahead(Queued("x", v1::PRIORITY_HIGH)).size(), 1U);
  EXPECT_EQ(queue.Ahead(Queued("x")).size(), 2U);
  EXPECT_EQ(queue.Ahead(Queued("x", v1::PRIORITY_LOW)).size(), 3U);
  EXPECT_EQ(queue.Ahead(Queued("x", v1::PRIORITY_LOW, "plan-2")).size(), 0U);
}

TEST(RequestQueueTest, DropsWhatIsRemoved) {
  RequestQueue queue({.requests = 10});
  auto generation = Queued("a");
  ASSERT_TRUE(queue.Push(generation).ok());
  queue.Remove(*generation);
  queue.Remove(*generation);
  EXPECT_EQ(queue.size(), 0U);
}

TEST(RequestQueueTest, RefusesAfterCloseButGivesWhatItHolds) {
  RequestQueue queue({.requests = 10});
  ASSERT_TRUE(queue.Push(Queued("a")).ok());
  queue.Close();
  EXPECT_EQ(ReasonOf(queue.Push(Queued("b"))), "DRAINING");
  EXPECT_EQ(PopId(queue), "a");
  const auto began = Clock::now();
  EXPECT_TRUE(queue.PopBatch("plan-1", 1, absl::Seconds(30)).empty());
  EXPECT_LT(Clock::now() - began, std::chrono::seconds(5));
}

TEST(RequestQueueTest, WakesWhoWaits) {
  RequestQueue queue({.requests = 10});
  std::thread pusher([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ASSERT_TRUE(queue.Push(Queued("a")).ok());
  });
  const auto batch = queue.PopBatch("plan-1", 1, absl::Seconds(30));
  pusher.join();
  ASSERT_EQ(batch.size(), 1U);
  std::thread interrupter([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    queue.Interrupt();
  });
  EXPECT_TRUE(queue.PopBatch("plan-1", 1, absl::Seconds(30)).empty());
  interrupter.join();
}

std::shared_ptr<Generation> From(const std::string& client, const std::string& id,
                                 std::optional<Clock::time_point> deadline = std::nullopt) {
  GenerationSpec spec = TestSpec(id);
  spec.owner.client = client;
  spec.deadline = deadline;
  return MakeGeneration(std::move(spec));
}

TEST(RequestQueueTest, LiftsAClassForEachAgeingTime) {
  RequestQueue queue({.requests = 10, .ageing = absl::Milliseconds(40)});
  ASSERT_TRUE(queue.Push(Queued("old low", v1::PRIORITY_LOW)).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  ASSERT_TRUE(queue.Push(Queued("normal")).ok());
  ASSERT_TRUE(queue.Push(Queued("high", v1::PRIORITY_HIGH)).ok());
  EXPECT_EQ(PopId(queue), "high");
  EXPECT_EQ(PopId(queue), "old low") << "as old as a class, it counts as normal and came first";
  EXPECT_EQ(PopId(queue), "normal");
}

TEST(RequestQueueTest, TakesTurnsBetweenClients) {
  RequestQueue queue({.requests = 10});
  for (const char* id : {"a1", "a2", "a3"}) {
    ASSERT_TRUE(queue.Push(From("a", id)).ok());
  }
  ASSERT_TRUE(queue.Push(From("b", "b1")).ok());
  EXPECT_EQ(PopId(queue), "a1");
  EXPECT_EQ(PopId(queue), "b1") << "b was served nothing yet";
  EXPECT_EQ(PopId(queue), "a2");
}

TEST(RequestQueueTest, CountsWhatAClientCostNotHowOftenItComes) {
  RequestQueue queue({.requests = 10});
  GenerationSpec dear = TestSpec("dear");
  dear.owner.client = "a";
  *dear.accepted.mutable_cost()->mutable_gpu_time() = ToProto(absl::Seconds(100));
  ASSERT_TRUE(queue.Push(MakeGeneration(std::move(dear))).ok());
  ASSERT_TRUE(queue.Push(From("a", "a2")).ok());
  for (const char* id : {"b1", "b2", "b3"}) {
    ASSERT_TRUE(queue.Push(From("b", id)).ok());
  }
  EXPECT_EQ(PopId(queue), "dear");
  EXPECT_EQ(PopId(queue), "b1");
  EXPECT_EQ(PopId(queue), "b2");
  EXPECT_EQ(PopId(queue), "b3") << "three of 1 s are less than one of 100 s";
  EXPECT_EQ(PopId(queue), "a2");
}

TEST(RequestQueueTest, RunsTheEarliestDeadlineOfAClientFirst) {
  RequestQueue queue({.requests = 10});
  const auto now = Clock::now();
  ASSERT_TRUE(queue.Push(From("a", "none")).ok());
  ASSERT_TRUE(queue.Push(From("a", "late", now + std::chrono::seconds(9))).ok());
  ASSERT_TRUE(queue.Push(From("a", "soon", now + std::chrono::seconds(5))).ok());
  EXPECT_EQ(PopId(queue), "soon");
  EXPECT_EQ(PopId(queue), "late");
  EXPECT_EQ(PopId(queue), "none");
}

std::shared_ptr<Generation> Lasting(const std::string& id, absl::Duration run) {
  GenerationSpec spec = TestSpec(id, 1, 1);
  spec.estimate = Estimate{absl::ZeroDuration(), run, 5};
  return MakeGeneration(std::move(spec));
}

TEST(RequestQueueTest, RefusesMoreWorkThanItsBound) {
  RequestQueue queue({.requests = 10, .work = absl::Seconds(30)});
  ASSERT_TRUE(queue.Push(Lasting("first", absl::Seconds(20))).ok());
  const absl::Status status = queue.Push(Lasting("more", absl::Seconds(11)));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "QUEUE_FULL");
  EXPECT_EQ(MetadataOf(status, "queued_work_ms"), "20000");
  EXPECT_EQ(MetadataOf(status, "max_work_ms"), "30000");
  EXPECT_TRUE(queue.Push(Lasting("less", absl::Seconds(10))).ok());
  EXPECT_EQ(queue.Work(), absl::Seconds(30));
  EXPECT_EQ(PopId(queue), "first");
  EXPECT_EQ(queue.Work(), absl::Seconds(10));
}

TEST(RequestQueueTest, TakesAnyWorkWhenEmpty) {
  RequestQueue queue({.requests = 10, .work = absl::Seconds(30)});
  auto huge = Lasting("huge", absl::Hours(1));
  EXPECT_TRUE(queue.Push(huge).ok());
  EXPECT_TRUE(queue.Remove(*huge));
  EXPECT_EQ(queue.Work(), absl::ZeroDuration());
}

TEST(RequestQueueTest, LosesNothingBetweenManyThreads) {
  RequestQueue queue({.requests = 100000});
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
      while (true) {
        const auto batch = queue.PopBatch("plan-1", 1, absl::Milliseconds(300));
        if (batch.empty()) {
          break;
        }
        std::lock_guard<std::mutex> lock(mutex);
        popped.insert(batch.front()->spec().request_id);
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
