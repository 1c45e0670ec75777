#include "worker/event_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "worker/convert.h"

namespace patchflow {
namespace {

FinishedImage ImageOf(int index, size_t bytes) {
  FinishedImage image;
  image.index = index;
  image.bytes = std::string(bytes, static_cast<char>('a' + index));
  image.sha256 = std::string(32, 's');
  return image;
}

class EventQueueTest : public ::testing::Test {
 protected:
  std::atomic<int> wakes_ = 0;
  std::optional<absl::Status> ended_;
  EventQueue queue_{[this] { ++wakes_; }, [this](const absl::Status& status) { ended_ = status; }};
};

TEST_F(EventQueueTest, TheNewestPositionReplacesOneThatWaits) {
  queue_.OnPhase(0, JobPhase::kText, 0);
  queue_.OnPhase(0, JobPhase::kDenoise, 1);
  queue_.OnPhase(0, JobPhase::kDenoise, 2);
  EXPECT_EQ(wakes_, 3);
  const auto message = queue_.Take();
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(message->step().steps_done(), 2);
  EXPECT_EQ(message->step().phase(), worker::v1::JOB_PHASE_DENOISE);
  EXPECT_FALSE(queue_.Take().has_value());
}

TEST_F(EventQueueTest, StepsAndPreviewsReplaceTheirOwnKindHoweverTheyMix) {
  for (int step = 1; step <= 50; ++step) {
    queue_.OnPhase(0, JobPhase::kDenoise, step);
    queue_.OnPreview(0, step, "png");
  }
  queue_.OnPhase(0, JobPhase::kDecode, 50);
  auto message = queue_.Take();
  ASSERT_TRUE(message.has_value() && message->has_preview());
  EXPECT_EQ(message->preview().step(), 50);
  EXPECT_EQ(message->preview().format(), v1::IMAGE_FORMAT_PNG);
  EXPECT_EQ(message->preview().data(), "png");
  message = queue_.Take();
  ASSERT_TRUE(message.has_value() && message->has_step());
  EXPECT_EQ(message->step().phase(), worker::v1::JOB_PHASE_DECODE);
  EXPECT_FALSE(queue_.Take().has_value());
}

TEST_F(EventQueueTest, ImagesOfAPassDoNotReplaceEachOther) {
  for (int step = 1; step <= 50; ++step) {
    for (const int image : {3, 5}) {
      queue_.OnPhase(image, JobPhase::kDenoise, step);
      queue_.OnPreview(image, step, "png");
    }
  }
  std::vector<std::pair<int, int>> steps;
  std::vector<std::pair<int, int>> previews;
  while (const auto message = queue_.Take()) {
    if (message->has_step()) {
      steps.emplace_back(message->step().image_index(), message->step().steps_done());
    } else {
      previews.emplace_back(message->preview().image_index(), message->preview().step());
    }
  }
  const std::vector<std::pair<int, int>> newest = {{3, 50}, {5, 50}};
  EXPECT_EQ(steps, newest);
  EXPECT_EQ(previews, newest);
}

TEST_F(EventQueueTest, APreviewBeforeATraceStaysBeforeIt) {
  queue_.OnPreview(0, 2, "first");
  queue_.OnTrace(0, {});
  queue_.OnPreview(1, 2, "second");
  queue_.OnPreview(1, 4, "third");
  EXPECT_EQ(queue_.Take()->preview().data(), "first");
  EXPECT_TRUE(queue_.Take()->has_image_trace());
  const auto last = queue_.Take();
  EXPECT_EQ(last->preview().data(), "third");
  EXPECT_EQ(last->preview().image_index(), 1);
  EXPECT_FALSE(queue_.Take().has_value());
}

TEST_F(EventQueueTest, TellsThatTheRanksAreFreeWhereItWasTold) {
  queue_.OnTrace(0, {});
  queue_.OnRanksFree();
  queue_.OnPhase(0, JobPhase::kEncode, 4);
  EXPECT_TRUE(queue_.Take()->has_image_trace());
  EXPECT_TRUE(queue_.Take()->has_ranks_free());
  EXPECT_TRUE(queue_.Take()->has_step());
  queue_.Close();
  queue_.OnRanksFree();
  EXPECT_FALSE(queue_.Take().has_value());
}

TEST_F(EventQueueTest, TheLastImageIsAwaitedUntilItWasTakenOrNobodyReads) {
  for (const bool read : {true, false}) {
    queue_.OnImage(ImageOf(0, 10));
    std::atomic<bool> taken = false;
    std::thread waiter([&] {
      queue_.AwaitTaken();
      taken = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    EXPECT_FALSE(taken);
    if (read) {
      while (queue_.Take().has_value()) {
      }
    } else {
      queue_.Close();
    }
    waiter.join();
    EXPECT_TRUE(taken);
  }
}

TEST_F(EventQueueTest, AnImageIsAHeaderChunksAndItsFigures) {
  constexpr size_t kBytes = (size_t{256} << 10) * 2 + 5;
  queue_.OnImage(ImageOf(3, kBytes));
  auto message = queue_.Take();
  ASSERT_TRUE(message->has_image_header());
  EXPECT_EQ(message->image_header().total_bytes(), kBytes);
  EXPECT_EQ(message->image_header().image_index(), 3);
  std::string bytes;
  for (message = queue_.Take(); message->has_image_chunk(); message = queue_.Take()) {
    EXPECT_EQ(message->image_chunk().offset(), bytes.size());
    EXPECT_LE(message->image_chunk().data().size(), size_t{256} << 10);
    bytes += message->image_chunk().data();
  }
  EXPECT_EQ(bytes, std::string(kBytes, 'd'));
  ASSERT_TRUE(message->has_image_done());
  EXPECT_EQ(message->image_done().timings_size(), 4);
  EXPECT_FALSE(queue_.Take().has_value());
}

TEST_F(EventQueueTest, ASecondImageWaitsUntilTheFirstWasTaken) {
  queue_.OnImage(ImageOf(0, 10));
  std::atomic<bool> handed_over = false;
  std::jthread encoder([&] {
    queue_.OnImage(ImageOf(1, 10));
    handed_over = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(handed_over);
  while (!queue_.Take()->has_image_done()) {
  }
  encoder.join();
  EXPECT_EQ(queue_.Take()->image_header().image_index(), 1);
}

TEST_F(EventQueueTest, ClosingDropsEverythingButTheEndAndReleasesTheEncoder) {
  queue_.OnImage(ImageOf(0, 10));
  std::jthread encoder([&] { queue_.OnImage(ImageOf(1, 10)); });
  queue_.Close();
  encoder.join();
  queue_.OnPhase(0, JobPhase::kText, 0);
  queue_.OnPreview(0, 1, "png");
  EXPECT_FALSE(queue_.Take().has_value());
  queue_.OnEnd(absl::CancelledError("cancelled"));
  EXPECT_EQ(ended_->code(), absl::StatusCode::kCancelled);
}

TEST_F(EventQueueTest, ATraceIsNotConflatedAndTellsTheClockOfItsHost) {
  const auto before = RankTrace::Clock::now();
  RankTrace rank;
  rank.rank = 1;
  rank.phases.push_back({Phase::kText, before, before + std::chrono::milliseconds(3)});
  rank.steps_begin = before;
  rank.step_times = {absl::Milliseconds(2)};
  queue_.OnTrace(0, {RankTrace(), rank});
  queue_.OnTrace(1, {rank});
  queue_.OnPhase(1, JobPhase::kDenoise, 1);
  const auto message = queue_.Take();
  ASSERT_TRUE(message.has_value() && message->has_image_trace());
  const worker::v1::ImageTrace& trace = message->image_trace();
  EXPECT_EQ(trace.image_index(), 0);
  EXPECT_LE(trace.received_ns(), NanosecondsOf(before));
  EXPECT_GE(trace.sent_ns(), NanosecondsOf(before));
  ASSERT_EQ(trace.ranks_size(), 2);
  EXPECT_EQ(trace.ranks(0).phases_size(), 0);
  EXPECT_EQ(trace.ranks(1).rank(), 1);
  EXPECT_EQ(trace.ranks(1).phases(0).phase(), worker::v1::JOB_PHASE_TEXT);
  EXPECT_EQ(trace.ranks(1).phases(0).end_ns() - trace.ranks(1).phases(0).begin_ns(), 3'000'000);
  EXPECT_EQ(trace.ranks(1).steps_begin_ns(), NanosecondsOf(before));
  EXPECT_EQ(trace.ranks(1).step_times_ns(0), 2'000'000);
  EXPECT_EQ(queue_.Take()->image_trace().image_index(), 1);
  EXPECT_TRUE(queue_.Take()->has_step());
}

}  // namespace
}  // namespace patchflow
