#include "worker/memory_sampler.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>

namespace patchflow {
namespace {

template <typename Condition>
bool Comes(Condition condition) {
  for (int i = 0; i < 5000 && !condition(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return condition();
}

TEST(MemorySamplerTest, FollowsEachDeviceAndKeepsTheHighest) {
  std::array<std::atomic<int64_t>, 2> memory = {30, 7};
  const MemorySampler sampler(
      2, [&](size_t device) { return memory.at(device).load(); }, absl::Milliseconds(2));
  EXPECT_TRUE(Comes([&] { return sampler.Used(0) == 30 && sampler.Used(1) == 7; }));
  memory[0] = 20;
  memory[1] = 8;
  EXPECT_TRUE(Comes([&] { return sampler.Used(0) == 20 && sampler.Used(1) == 8; }));
  EXPECT_EQ(sampler.Peak(0), 30);
  EXPECT_EQ(sampler.Peak(1), 8);
}

TEST(MemorySamplerTest, WhoAsksDoesNotWaitForTheDriver) {
  std::atomic<bool> answers = false;
  std::atomic<bool> asked = false;
  const MemorySampler sampler(
      1,
      [&](size_t /*device*/) {
        asked = true;
        while (!answers) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return 5;
      },
      absl::Milliseconds(1));
  ASSERT_TRUE(Comes([&] { return asked.load(); }));
  EXPECT_EQ(sampler.Used(0), 0) << "nothing was read yet";
  answers = true;
  EXPECT_TRUE(Comes([&] { return sampler.Used(0) == 5; }));
}

TEST(MemorySamplerTest, EndsWithoutWaitingForItsInterval) {
  const auto began = std::chrono::steady_clock::now();
  {
    const MemorySampler sampler(
        1, [](size_t) { return 1; }, absl::Minutes(10));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(30));
}

}  // namespace
}  // namespace patchflow
