#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "server/request_queue.h"
#include "tests/server/generations.h"
#include "tests/tsan/together.h"

namespace patchflow {
namespace {

constexpr int kEach = 120;  // Generations of each pusher.

std::vector<std::shared_ptr<Generation>> Make(const std::string& client) {
  std::vector<std::shared_ptr<Generation>> made;
  for (int i = 0; i < kEach; ++i) {
    GenerationSpec spec = TestSpec(absl::StrCat(client, i));
    spec.owner.client = client;
    spec.priority = i % 5 == 0 ? v1::PRIORITY_HIGH : v1::PRIORITY_NORMAL;
    made.push_back(MakeGeneration(std::move(spec)));
  }
  return made;
}

TEST(RequestQueueStress, HandsEachGenerationToOneTaker) {
  RequestQueue queue({.requests = 2 * kEach});
  const auto first = Make("first");
  const auto second = Make("second");
  // Relaxed, so that the counting orders nothing between the threads.
  std::atomic<int> popped = 0;
  std::atomic<int> removed = 0;
  const auto count = [](std::atomic<int>& n) { n.fetch_add(1, std::memory_order_relaxed); };
  const auto left = [&] {
    return popped.load(std::memory_order_relaxed) + removed.load(std::memory_order_relaxed) <
           2 * kEach;
  };
  const auto pop = [&] {
    while (left()) {
      if (!queue.PopBatch("plan-1", 1, absl::Milliseconds(5)).empty()) {
        count(popped);
      }
    }
  };
  Together({[&] {
              for (const auto& generation : first) {
                EXPECT_TRUE(queue.Push(generation).ok());
              }
            },
            [&] {
              for (const auto& generation : second) {
                queue.PushAgain(generation);
              }
            },
            [&] {
              for (const auto& generation : first) {
                if (queue.Remove(*generation)) {
                  count(removed);
                }
              }
            },
            pop, pop,
            [&] {
              while (left()) {
                EXPECT_LE(queue.size(), 2U * kEach);
                EXPECT_LE(queue.SizeOf("plan-1"), 2U * kEach);
                EXPECT_LE(queue.InOrder().size(), 2U * kEach);
                EXPECT_GE(queue.OldestAge(), absl::ZeroDuration());
                queue.Ahead(first.back());
                queue.Interrupt();
                std::this_thread::yield();
              }
            }});
  EXPECT_EQ(popped + removed, 2 * kEach);
  EXPECT_EQ(queue.size(), 0U);
  EXPECT_EQ(queue.Work(), absl::ZeroDuration());
}

TEST(RequestQueueStress, CloseEndsEveryWait) {
  RequestQueue queue({.requests = 4});
  const auto wait = [&] { EXPECT_TRUE(queue.PopBatch("plan-1", 1, absl::Seconds(30)).empty()); };
  const auto began = Clock::now();
  Together({wait, wait, wait, [&] { queue.Close(); }});
  EXPECT_LT(Clock::now() - began, std::chrono::seconds(20));
}

}  // namespace
}  // namespace patchflow
