#include "worker/batch.h"

#include <gtest/gtest.h>

#include <functional>
#include <utility>

namespace patchflow {
namespace {

JobImage ImageOf(int index) {
  JobImage image{.index = index, .request = {}};
  image.request.width_px = 512;
  image.request.height_px = 256;
  image.request.scheduler = "ddim";
  image.request.seed = static_cast<uint64_t>(index);
  return image;
}

Job JobOf(int images) {
  Job job;
  for (int index = 0; index < images; ++index) job.images.push_back(ImageOf(index));
  return job;
}

Batch BatchOf(int images, int batch_size) {
  return Batch({JobOf(images), {}, nullptr}, batch_size);
}

TEST(BatchTest, IsFullWhenItsRowsAreTaken) {
  Batch batch = BatchOf(1, 4);
  EXPECT_FALSE(batch.full());
  ASSERT_TRUE(batch.Fits(JobOf(2)));
  batch.Add({JobOf(2), {}, nullptr});
  EXPECT_FALSE(batch.full());
  EXPECT_FALSE(batch.Fits(JobOf(2))) << "three of four rows are taken";
  ASSERT_TRUE(batch.Fits(JobOf(1)));
  batch.Add({JobOf(1), {}, nullptr});
  EXPECT_TRUE(batch.full());
  EXPECT_FALSE(batch.Fits(JobOf(1)));
  ASSERT_EQ(batch.calls().size(), 3U);
  EXPECT_EQ(batch.calls()[1].job.images.size(), 2U);
}

TEST(BatchTest, ACallOfMoreImagesThanRowsIsAlone) {
  const Batch batch = BatchOf(5, 4);
  EXPECT_TRUE(batch.full());
  EXPECT_FALSE(batch.Fits(JobOf(1)));
  EXPECT_FALSE(BatchOf(1, 4).Fits(JobOf(5)));
}

TEST(BatchTest, OfOneRowWaitsForNobody) { EXPECT_TRUE(BatchOf(1, 1).full()); }

TEST(BatchTest, TakesWhateverDiffersInWhatRowsMayDifferIn) {
  const Batch batch = BatchOf(1, 2);
  Job job = JobOf(1);
  ImageRequest& request = job.images[0].request;
  request.prompt = "a star";
  request.negative_prompt = "grey";
  request.seed = 7;
  request.preview.every_steps = 2;
  job.images[0].encode.format = ImageFormat::kJpeg;
  EXPECT_TRUE(batch.Fits(job));
}

TEST(BatchTest, RefusesAnotherShape) {
  const Batch batch = BatchOf(1, 4);
  const auto fits = [&](const std::function<void(ImageRequest&)>& change) {
    Job job = JobOf(2);
    change(job.images[1].request);
    return batch.Fits(job);
  };
  EXPECT_TRUE(fits([](ImageRequest&) {}));
  EXPECT_FALSE(fits([](ImageRequest& request) { request.width_px = 528; }));
  EXPECT_FALSE(fits([](ImageRequest& request) { request.height_px = 512; }));
  EXPECT_FALSE(fits([](ImageRequest& request) { request.steps = 21; }));
  EXPECT_FALSE(fits([](ImageRequest& request) { request.guidance_scale = 1; }));
  EXPECT_FALSE(fits([](ImageRequest& request) { request.scheduler = "euler"; }));
}

TEST(BatchTest, WaitsAFewMillisecondsFromItsFirstCallOn) {
  const auto before = Batch::Clock::now();
  const Batch batch = BatchOf(1, 2);
  EXPECT_GE(batch.deadline(), before + kBatchDelay);
  EXPECT_LE(batch.deadline(), Batch::Clock::now() + kBatchDelay);
}

}  // namespace
}  // namespace patchflow
