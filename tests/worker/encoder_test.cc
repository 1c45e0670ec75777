#include "worker/encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

#include "absl/time/clock.h"

namespace patchflow {
namespace {

using testing::HasSubstr;

class Receiver final : public JobEvents {
 public:
  void OnPhase(int /*image*/, JobPhase /*phase*/, int /*steps*/) override {}
  void OnTrace(int /*image*/, const std::vector<RankTrace>& /*ranks*/) override {}
  void OnImage(FinishedImage /*image*/) override {
    absl::SleepFor(delay);
    ++images;
  }
  void OnEnd(const absl::Status& /*status*/) override {}
  absl::Duration delay;
  std::atomic<int> images = 0;
};

absl::Status EncodeOne(Encoder& encoder, Receiver& receiver) {
  Generated made;
  made.image = Image{16, 16, std::vector<uint8_t>(size_t{3} * 16 * 16)};
  JobImage asked;
  asked.encode.format = ImageFormat::kPng;
  return encoder.Begin(asked, std::move(made), receiver)->Wait();
}

TEST(EncoderTest, AnEncodingThatHangsIsGivenUpAndHandsOverNothing) {
  std::atomic<bool> go = false;
  std::atomic<bool> gone = false;
  Receiver receiver;
  Encoder encoder({.first_run_timeout = absl::Milliseconds(50), .before = [&] {
                     while (!go) absl::SleepFor(absl::Milliseconds(1));
                     gone = true;
                   }});
  const absl::Status status = EncodeOne(encoder, receiver);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("showed no end for 50ms in encode"));
  EXPECT_EQ(EngineReasonOf(status), "ENGINE_FAILED");
  go = true;
  while (!gone) absl::SleepFor(absl::Milliseconds(1));
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(receiver.images, 0);
}

TEST(EncoderTest, ASlowReceiverIsNoHang) {
  Receiver receiver;
  receiver.delay = absl::Milliseconds(300);
  Encoder encoder({.first_run_timeout = absl::Milliseconds(200)});
  EXPECT_TRUE(EncodeOne(encoder, receiver).ok());
  EXPECT_EQ(receiver.images, 1);
}

TEST(EncoderTest, AKnownShapeHasTheLimitOfPhases) {
  Receiver receiver;
  std::atomic<int> pause_ms = 0;
  Encoder encoder({.first_run_timeout = absl::Seconds(30),
                   .phase_timeout = absl::Milliseconds(100),
                   .before = [&] { absl::SleepFor(absl::Milliseconds(pause_ms.load())); }});
  EXPECT_TRUE(EncodeOne(encoder, receiver).ok());
  pause_ms = 3000;
  EXPECT_TRUE(absl::IsUnavailable(EncodeOne(encoder, receiver)));
  EXPECT_EQ(receiver.images, 1);
  absl::SleepFor(absl::Milliseconds(3200));  // The thread that was left behind uses pause_ms.
}

TEST(EncoderTest, AnExceptionIsAStatus) {
  Receiver receiver;
  Encoder encoder({.before = [] { throw std::runtime_error("no memory left for PNG"); }});
  EXPECT_TRUE(absl::IsInternal(EncodeOne(encoder, receiver)));
  EXPECT_EQ(receiver.images, 0);
}

}  // namespace
}  // namespace patchflow
