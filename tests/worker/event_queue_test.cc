#include "worker/event_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

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
  EXPECT_FALSE(queue_.Take().has_value());
  queue_.OnEnd(absl::CancelledError("cancelled"));
  EXPECT_EQ(ended_->code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace patchflow
