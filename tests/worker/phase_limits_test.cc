#include "worker/phase_limits.h"

#include <gtest/gtest.h>

namespace patchflow {
namespace {

ImageRequest Square(int size_px, double guidance_scale = 4.5) {
  ImageRequest request;
  request.width_px = request.height_px = size_px;
  request.guidance_scale = guidance_scale;
  return request;
}

TEST(PhaseLimitsTest, AnUnknownShapeHasTheFirstRunsLimit) {
  PhaseLimits limits(absl::Seconds(120));
  limits.Record(Square(256), Phase::kDenoise, absl::Milliseconds(50));
  EXPECT_EQ(limits.Limit(Square(512), Phase::kDenoise), absl::Seconds(120));
  EXPECT_EQ(limits.Limit(Square(256, 1), Phase::kDenoise), absl::Seconds(120));
  EXPECT_EQ(limits.Limit(Square(256), Phase::kDecode), absl::Seconds(120));
  ImageRequest batch = Square(256);
  batch.batch_size = 4;
  EXPECT_EQ(limits.Limit(batch, Phase::kDenoise), absl::Seconds(120));
}

TEST(PhaseLimitsTest, AShortPauseIsGrantedTenSeconds) {
  PhaseLimits limits(absl::Seconds(120));
  limits.Record(Square(256), Phase::kDenoise, absl::Milliseconds(50));
  EXPECT_EQ(limits.Limit(Square(256), Phase::kDenoise), absl::Seconds(10));
}

TEST(PhaseLimitsTest, TheLeastThatIsGrantedCanBeSet) {
  PhaseLimits limits(absl::Seconds(120), absl::Seconds(3));
  limits.Record(Square(256), Phase::kDenoise, absl::Milliseconds(50));
  limits.Record(Square(256), Phase::kText, absl::Milliseconds(50));
  EXPECT_EQ(limits.Limit(Square(256), Phase::kDenoise), absl::Seconds(3));
  EXPECT_EQ(limits.Limit(Square(256), Phase::kText), absl::Seconds(3));
}

TEST(PhaseLimitsTest, ALongPauseIsGrantedTenMedians) {
  PhaseLimits limits(absl::Seconds(120));
  for (const int seconds : {2, 3, 600}) {
    limits.Record(Square(4096), Phase::kDenoise, absl::Seconds(seconds));
  }
  EXPECT_EQ(limits.Limit(Square(4096), Phase::kDenoise), absl::Seconds(30));
}

TEST(PhaseLimitsTest, TextIsJudgedByTheTimeThatItTookWhenItWasNotKept) {
  PhaseLimits limits(absl::Seconds(120));
  limits.Record(Square(256), Phase::kText, absl::Seconds(8));
  for (int i = 0; i < 900; ++i) limits.Record(Square(256), Phase::kText, absl::Milliseconds(1));
  EXPECT_EQ(limits.Limit(Square(256), Phase::kText), absl::Seconds(80));
}

TEST(PhaseLimitsTest, TextsThatWereKeptDoNotStandForOnesThatWereNot) {
  PhaseLimits limits(absl::Seconds(120));
  limits.Record(Square(256), Phase::kText, absl::Milliseconds(1));
  limits.Record(Square(256), Phase::kText, absl::Seconds(8));
  limits.Record(Square(256), Phase::kText, absl::Seconds(2));
  for (int i = 0; i < 999; ++i) limits.Record(Square(256), Phase::kText, absl::Milliseconds(1));
  EXPECT_EQ(limits.Limit(Square(256), Phase::kText), absl::Seconds(80));
}

TEST(PhaseLimitsTest, ATextThatTookFarTooLongIsForgotten) {
  PhaseLimits limits(absl::Seconds(120));
  limits.Record(Square(256), Phase::kText, absl::Seconds(100));
  for (int i = 0; i < 1000; ++i) limits.Record(Square(256), Phase::kText, absl::Milliseconds(500));
  EXPECT_EQ(limits.Limit(Square(256), Phase::kText), absl::Seconds(120)) << "nothing is known";
  limits.Record(Square(256), Phase::kText, absl::Milliseconds(500));
  EXPECT_EQ(limits.Limit(Square(256), Phase::kText), absl::Seconds(10));
}

TEST(PhaseLimitsTest, EncodingsThatTakeOtherTimesAreForgottenOneForOne) {
  PhaseLimits limits(absl::Seconds(120));
  limits.Record(Square(256), Phase::kText, absl::Seconds(8));
  for (int i = 0; i < 31; ++i) limits.Record(Square(256), Phase::kText, absl::Seconds(2));
  EXPECT_EQ(limits.Limit(Square(256), Phase::kText), absl::Seconds(20));
}

}  // namespace
}  // namespace patchflow
