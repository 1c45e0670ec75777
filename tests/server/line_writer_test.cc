#include "server/line_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace patchflow {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;

// Takes lines, while it is open.
class Sink {
 public:
  LineWriter::Write write() {
    return [this](const std::vector<std::string>& lines) {
      std::unique_lock<std::mutex> lock(mutex_);
      ++writes_;
      changed_.notify_all();
      changed_.wait(lock, [this] { return open_; });
      lines_.insert(lines_.end(), lines.begin(), lines.end());
    };
  }
  void Open(bool open) {
    const std::lock_guard<std::mutex> lock(mutex_);
    open_ = open;
    changed_.notify_all();
  }
  void AwaitWrite() {
    std::unique_lock<std::mutex> lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(10), [this] { return writes_ > 0; }));
  }
  std::vector<std::string> lines() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return lines_;
  }
  size_t writes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return writes_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  size_t writes_ = 0;
  std::vector<std::string> lines_;
};

TEST(LineWriterTest, WritesAllInOrderBeforeItGoes) {
  Sink sink;
  {
    LineWriter writer(4, LineWriter::Full::kWait, sink.write());
    for (int i = 0; i < 1000; ++i) {
      writer.Add(std::to_string(i));
    }
  }
  const auto lines = sink.lines();
  ASSERT_EQ(lines.size(), 1000U);
  for (size_t i = 0; i < lines.size(); ++i) {
    ASSERT_EQ(lines[i], std::to_string(i));
  }
}

TEST(LineWriterTest, WritesManyLinesAtATimeUnderLoad) {
  Sink sink;
  {
    LineWriter writer(100'000, LineWriter::Full::kWait, sink.write());
    for (int i = 0; i < 50'000; ++i) {
      writer.Add("x");
    }
  }
  EXPECT_EQ(sink.lines().size(), 50'000U);
  EXPECT_LT(sink.writes(), 5000U);
}

TEST(LineWriterTest, ALineComesByItselfAndAgainAfterAPause) {
  Sink sink;
  LineWriter writer(10, LineWriter::Full::kWait, sink.write());
  for (size_t i = 1; i <= 3; ++i) {
    writer.Add("x");
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (sink.lines().size() < i && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(milliseconds(1));
    }
    ASSERT_EQ(sink.lines().size(), i);
    std::this_thread::sleep_for(milliseconds(10));
  }
}

TEST(LineWriterTest, DropsTheOldestWhenNothingIsTaken) {
  Sink sink;
  sink.Open(false);
  LineWriter writer(2, LineWriter::Full::kDropOldest, sink.write());
  writer.Add("first");
  sink.AwaitWrite();
  for (const char* line : {"a", "b", "c"}) {
    writer.Add(line);
  }
  writer.Flush(milliseconds(1));
  EXPECT_TRUE(sink.lines().empty()) << "the wait was bounded";
  sink.Open(true);
  writer.Flush(std::chrono::seconds(10));
  EXPECT_THAT(sink.lines(), ElementsAre("first", "b", "c"));
}

TEST(LineWriterTest, MakesItsCallersWaitWhenNothingIsTaken) {
  Sink sink;
  sink.Open(false);
  LineWriter writer(1, LineWriter::Full::kWait, sink.write());
  writer.Add("first");
  sink.AwaitWrite();
  writer.Add("a");
  std::thread opener([&] {
    std::this_thread::sleep_for(milliseconds(50));
    sink.Open(true);
  });
  const auto began = std::chrono::steady_clock::now();
  writer.Add("b");
  EXPECT_GE(std::chrono::steady_clock::now() - began, milliseconds(30));
  opener.join();
  writer.Flush(std::chrono::seconds(10));
  EXPECT_THAT(sink.lines(), ElementsAre("first", "a", "b"));
}

}  // namespace
}  // namespace patchflow
