#include "engine/text_cache.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace patchflow {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;

class TextCacheTest : public ::testing::Test {
 protected:
  // As an encoder does: the length of the text, in every place.
  Prompt Encode(const std::string& text) {
    {
      const std::lock_guard lock(mutex_);
      encoded_.push_back(text);
    }
    if (before_) before_(text);
    return {.text_BLD = at::full({1, 2, 3}, static_cast<double>(text.size())),
            .mask_BL = at::ones({1, 2}, at::kLong)};
  }
  double Get(const std::string& text) {
    const Prompt prompt = cache_.Get(text, [this](const std::string& t) { return Encode(t); });
    EXPECT_EQ(prompt.mask_BL.sum().item<int64_t>(), 2);
    return prompt.text_BLD.mean().item<double>();
  }
  void Prepare(const std::string& text) {
    cache_.Prepare(text, [this](const std::string& t) { return Encode(t); });
  }
  std::vector<std::string> encoded() {
    const std::lock_guard lock(mutex_);
    return encoded_;
  }

  std::mutex mutex_;
  std::vector<std::string> encoded_;
  std::function<void(const std::string&)> before_;
  TextCache cache_{3, at::kCPU};
};

TEST_F(TextCacheTest, EncodesATextOnce) {
  EXPECT_EQ(Get("abc"), 3);
  EXPECT_EQ(Get("abc"), 3);
  EXPECT_EQ(Get(""), 0);
  EXPECT_EQ(Get("abc"), 3);
  EXPECT_THAT(encoded(), ElementsAre("abc", ""));
}

TEST_F(TextCacheTest, KeepsTheLastFewThatWereUsed) {
  for (const char* text : {"a", "bb", "ccc", "a", "dddd"}) Get(text);
  encoded_.clear();
  for (const char* text : {"a", "ccc", "dddd"}) Get(text);
  EXPECT_TRUE(encoded().empty());
  EXPECT_EQ(Get("bb"), 2);
  EXPECT_THAT(encoded(), ElementsAre("bb"));
}

TEST_F(TextCacheTest, APreparedTextIsThereAndIsNotThePreparersMemory) {
  Tensor made;
  cache_.Prepare("abc", [&](const std::string& text) {
    Prompt prompt = Encode(text);
    made = prompt.text_BLD;
    return prompt;
  });
  const auto get = [&] {
    return cache_.Get("abc", [this](const std::string& text) { return Encode(text); });
  };
  const Prompt taken = get();
  EXPECT_NE(taken.text_BLD.data_ptr(), made.data_ptr());
  EXPECT_TRUE(at::equal(taken.text_BLD, made));
  EXPECT_EQ(get().text_BLD.data_ptr(), taken.text_BLD.data_ptr()) << "copied once";
  EXPECT_THAT(encoded(), ElementsAre("abc"));
}

TEST_F(TextCacheTest, WhatIsKeptIsNotPreparedAgain) {
  Get("");
  Prepare("");
  EXPECT_THAT(encoded(), ElementsAre(""));
}

TEST_F(TextCacheTest, ATextThatIsBeingPreparedIsWaitedFor) {
  std::promise<void> begun;
  std::promise<void> go;
  before_ = [&](const std::string&) {
    begun.set_value();
    go.get_future().wait();
  };
  std::thread ahead([&] { Prepare("abc"); });
  begun.get_future().wait();
  auto asked = std::async(std::launch::async, [&] { return Get("abc"); });
  EXPECT_EQ(asked.wait_for(milliseconds(50)), std::future_status::timeout);
  go.set_value();
  EXPECT_EQ(asked.get(), 3);
  ahead.join();
  EXPECT_THAT(encoded(), ElementsAre("abc"));
}

TEST_F(TextCacheTest, AnotherTextIsNotWaitedFor) {
  std::promise<void> begun;
  std::promise<void> go;
  before_ = [&](const std::string& text) {
    if (text != "abc") return;
    begun.set_value();
    go.get_future().wait();
  };
  std::thread ahead([&] { Prepare("abc"); });
  begun.get_future().wait();
  for (const char* text : {"a", "bb", "dddd", "eeeee"}) Get(text);
  go.set_value();
  ahead.join();
  EXPECT_EQ(Get("abc"), 3) << "it was not dropped while it was encoded";
  EXPECT_EQ(encoded().size(), 5U);
}

TEST_F(TextCacheTest, WhatFailedToBePreparedIsEncodedWhenItIsAskedFor) {
  std::promise<void> begun;
  std::promise<void> go;
  std::atomic<bool> fails = true;
  before_ = [&](const std::string&) {
    if (!fails.exchange(false)) return;
    begun.set_value();
    go.get_future().wait();
    throw std::runtime_error("no memory");
  };
  std::thread ahead([&] { EXPECT_THROW(Prepare("abc"), std::runtime_error); });
  begun.get_future().wait();
  auto asked = std::async(std::launch::async, [&] { return Get("abc"); });
  go.set_value();
  EXPECT_EQ(asked.get(), 3);
  ahead.join();
  EXPECT_THAT(encoded(), ElementsAre("abc", "abc"));
}

}  // namespace
}  // namespace patchflow
