#include "server/line_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
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
      const size_t taken = std::min(lines.size(), at_most_);
      lines_.insert(lines_.end(), lines.begin(), lines.begin() + static_cast<long>(taken));
      return taken;
    };
  }
  void Open(bool open) {
    const std::lock_guard<std::mutex> lock(mutex_);
    open_ = open;
    changed_.notify_all();
  }
  // Of each write.
  void TakeAtMost(size_t lines) {
    const std::lock_guard<std::mutex> lock(mutex_);
    at_most_ = lines;
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
  size_t at_most_ = SIZE_MAX;
  std::vector<std::string> lines_;
};

TEST(LineWriterTest, WritesAllInOrderBeforeItGoes) {
  Sink sink;
  {
    LineWriter writer(1000, LineWriter::Full::kRefuse, sink.write());
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
    LineWriter writer(100'000, LineWriter::Full::kRefuse, sink.write());
    for (int i = 0; i < 50'000; ++i) {
      writer.Add("x");
    }
  }
  EXPECT_EQ(sink.lines().size(), 50'000U);
  EXPECT_LT(sink.writes(), 5000U);
}

TEST(LineWriterTest, ALineComesByItselfAndAgainAfterAPause) {
  Sink sink;
  LineWriter writer(10, LineWriter::Full::kRefuse, sink.write());
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

TEST(LineWriterTest, RefusesWhatHasNoRoomAndNeverWaits) {
  Sink sink;
  sink.Open(false);
  LineWriter writer(3, LineWriter::Full::kRefuse, sink.write());
  writer.Add("first");
  sink.AwaitWrite();
  const auto began = std::chrono::steady_clock::now();
  EXPECT_TRUE(writer.Add("a", 1));
  EXPECT_TRUE(writer.Add("b", 1));
  EXPECT_FALSE(writer.Add("c", 1)) << "one place is reserved";
  EXPECT_TRUE(writer.Add("d"));
  EXPECT_FALSE(writer.Add("e"));
  EXPECT_LT(std::chrono::steady_clock::now() - began, milliseconds(500));
  sink.Open(true);
  writer.Flush(std::chrono::seconds(10));
  EXPECT_THAT(sink.lines(), ElementsAre("first", "a", "b", "d"));
}

TEST(LineWriterTest, WritesWhatWasNotTakenAgainAndFirst) {
  Sink sink;
  sink.TakeAtMost(1);
  LineWriter writer(10, LineWriter::Full::kRefuse, sink.write());
  for (const char* line : {"a", "b", "c"}) {
    writer.Add(line);
  }
  writer.Flush(std::chrono::seconds(10));
  EXPECT_THAT(sink.lines(), ElementsAre("a", "b", "c"));
}

TEST(LineWriterTest, TellsHowFarItIsBehind) {
  Sink sink;
  LineWriter writer(10, LineWriter::Full::kRefuse, sink.write());
  EXPECT_EQ(writer.backlog().lines, 0U);
  sink.TakeAtMost(0);
  writer.Add("a");
  sink.AwaitWrite();
  std::this_thread::sleep_for(milliseconds(30));
  writer.Add("b");
  EXPECT_EQ(writer.backlog().lines, 2U);
  EXPECT_GE(writer.backlog().age, milliseconds(30)) << "of the oldest";
  sink.TakeAtMost(SIZE_MAX);
  writer.Flush(std::chrono::seconds(10));
  EXPECT_EQ(writer.backlog().lines, 0U);
  EXPECT_EQ(writer.backlog().age, milliseconds(0));
}

TEST(LineWriterTest, GoesAtOnceWhenNothingCanBeWritten) {
  Sink sink;
  sink.TakeAtMost(0);
  const auto began = std::chrono::steady_clock::now();
  {
    LineWriter writer(10, LineWriter::Full::kRefuse, sink.write());
    writer.Add("a");
    sink.AwaitWrite();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(3));
}

TEST(LineWriterTest, DoesNotWaitForAWriteThatDoesNotComeBack) {
  auto sink = std::make_shared<Sink>();
  sink->Open(false);
  const auto began = std::chrono::steady_clock::now();
  {
    LineWriter writer(10, LineWriter::Full::kRefuse,
                      [sink, write = sink->write()](const auto& lines) { return write(lines); });
    writer.Add("a");
    sink->AwaitWrite();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - began,
            LineWriter::kLastWrites + std::chrono::seconds(3));
  sink->Open(true);  // Its thread ends.
}

}  // namespace
}  // namespace patchflow
