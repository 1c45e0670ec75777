#include "worker/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/image/metadata.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

worker::v1::ExecuteRequest GoodRequest() {
  worker::v1::ExecuteRequest request;
  request.set_request_id("r");
  v1::EffectiveParams& params = *request.mutable_params();
  params.set_width(256);
  params.set_height(128);
  params.set_steps(20);
  params.set_guidance_scale(4.5F);
  params.set_seed(40);
  params.set_scheduler("ddim");
  params.set_format(v1::IMAGE_FORMAT_JPEG);
  params.set_quality(80);
  request.set_prompt("a red circle");
  request.set_negative_prompt("blue");
  request.add_image_indices(2);
  request.add_image_indices(0);
  auto& metadata = *request.add_file_metadata()->mutable_entries();
  metadata["b"] = "2";
  metadata["a"] = "1";
  return request;
}

TEST(ConvertTest, EachImageHasItsOwnSeed) {
  const absl::StatusOr<Job> job = JobOf(GoodRequest());
  ASSERT_TRUE(job.ok()) << job.status();
  ASSERT_EQ(job->images.size(), 2);
  EXPECT_EQ(job->images[0].index, 2);
  EXPECT_EQ(job->images[0].request.seed, 42);
  EXPECT_EQ(job->images[1].request.seed, 40);
  const ImageRequest& request = job->images[0].request;
  EXPECT_EQ(request.prompt, "a red circle");
  EXPECT_EQ(request.negative_prompt, "blue");
  EXPECT_EQ(request.width_px, 256);
  EXPECT_EQ(request.height_px, 128);
  EXPECT_EQ(request.steps, 20);
  EXPECT_EQ(request.guidance_scale, 4.5);
  EXPECT_EQ(request.scheduler, "ddim");
  for (const JobImage& image : job->images) {  // One FileMetadata is for all.
    EXPECT_EQ(image.encode.format, ImageFormat::kJpeg);
    EXPECT_EQ(image.encode.quality, 80);
    EXPECT_EQ(image.encode.metadata, (Metadata{{"a", "1"}, {"b", "2"}}));
  }
}

TEST(ConvertTest, EachImageHasItsOwnMetadata) {
  worker::v1::ExecuteRequest request = GoodRequest();
  (*request.add_file_metadata()->mutable_entries())["seed"] = "40";
  const absl::StatusOr<Job> job = JobOf(request);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->images[0].encode.metadata, (Metadata{{"a", "1"}, {"b", "2"}}));
  EXPECT_EQ(job->images[1].encode.metadata, (Metadata{{"seed", "40"}}));
  request.clear_file_metadata();
  EXPECT_TRUE(JobOf(request)->images[1].encode.metadata.empty());
}

TEST(ConvertTest, RefusesMetadataThatFitsNoNumberOfImages) {
  worker::v1::ExecuteRequest request = GoodRequest();
  request.add_file_metadata();
  request.add_file_metadata();
  EXPECT_EQ(JobOf(request).status().message(),
            "file_metadata: 3 for 2 images; must be none, one for all, or one each");
}

TEST(ConvertTest, EveryImageAsksForPreviews) {
  worker::v1::ExecuteRequest request = GoodRequest();
  request.set_preview_every_steps(3);
  request.set_preview_max_edge(64);
  const absl::StatusOr<Job> job = JobOf(request);
  ASSERT_TRUE(job.ok()) << job.status();
  for (const JobImage& image : job->images) {
    EXPECT_EQ(image.request.preview.every_steps, 3);
    EXPECT_EQ(image.request.preview.max_edge_px, 64);
  }
}

TEST(ConvertTest, AllWrongFieldsAreNamedAtOnce) {
  worker::v1::ExecuteRequest request = GoodRequest();
  request.mutable_params()->set_format(v1::IMAGE_FORMAT_UNSPECIFIED);
  request.mutable_params()->set_quality(101);
  request.mutable_params()->set_seed(uint64_t{1} << 53);
  request.set_prompt(std::string(8193, 'x'));
  request.add_image_indices(-1);
  request.set_preview_every_steps(-1);
  request.set_preview_max_edge(4097);
  const absl::Status status = JobOf(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(EngineReasonOf(status), "INVALID_REQUEST");
  const std::string message(status.message());
  for (const char* field :
       {"params.format", "params.quality: 101", "params.seed", "prompt: 8193", "indices: -1",
        "preview_every_steps: -1", "preview_max_edge: 4097 is not in 0 .. 4096"}) {
    EXPECT_THAT(message, HasSubstr(field));
  }
}

TEST(ConvertTest, AJobWithoutImagesOrParametersIsRefused) {
  worker::v1::ExecuteRequest request = GoodRequest();
  request.clear_image_indices();
  request.clear_params();
  const std::string message(JobOf(request).status().message());
  EXPECT_THAT(message, HasSubstr("image_indices: 0 images"));
  EXPECT_THAT(message, HasSubstr("params: not set"));
}

TEST(ConvertTest, AModelsLimitsFollowFromItsConfig) {
  Offer offer;
  offer.description.architecture = "PixArtTransformer2DModel";
  offer.description.transformer.default_size_px = 512;
  offer.description.transformer.max_text_tokens = 300;
  offer.description.default_scheduler = "ddim";
  offer.description.default_steps = 25;
  offer.description.default_guidance_scale = 3;
  offer.max_pixels = 1 << 22;
  offer.dtype = "bfloat16";
  const v1::Model model = ModelOf(offer, "ulysses=2");
  EXPECT_EQ(model.architecture(), "PixArtTransformer2DModel");
  EXPECT_EQ(model.defaults().width(), 512);
  EXPECT_EQ(model.defaults().height(), 512);
  EXPECT_EQ(model.defaults().steps(), 25);
  EXPECT_EQ(model.defaults().guidance_scale(), 3);
  EXPECT_EQ(model.defaults().scheduler(), "ddim");
  EXPECT_EQ(model.limits().size_multiple(), 16);
  EXPECT_EQ(model.limits().max_size(), 8192);
  EXPECT_EQ(model.limits().max_pixels(), 1 << 22);
  EXPECT_EQ(model.limits().max_prompt_tokens(), 300);
  EXPECT_EQ(model.schedulers_size(), 3);
  EXPECT_EQ(model.formats_size(), 4);
  EXPECT_EQ(model.layouts(0), "ulysses=2");
}

TEST(ConvertTest, ARankTellsItsMemoryAndWhatItSent) {
  RankFigures figures;
  figures.memory_used_bytes = 1;
  figures.memory_peak_bytes = 2;
  figures.memory_total_bytes = 6;
  figures.memory_reserved_bytes = 3;
  figures.device_used_bytes = 4;
  figures.device_peak_bytes = 5;
  figures.communication_times = {
      {.operation = "p2p", .calls = 2, .time = absl::Seconds(7), .bytes = 8}};
  const worker::v1::RankStatus status = RankStatusOf(1, figures);
  EXPECT_EQ(status.memory_used_bytes(), 1U);
  EXPECT_EQ(status.memory_peak_bytes(), 2U);
  EXPECT_EQ(status.memory_total_bytes(), 6U);
  EXPECT_EQ(status.memory_reserved_bytes(), 3U);
  EXPECT_EQ(status.device_used_bytes(), 4U);
  EXPECT_EQ(status.device_peak_bytes(), 5U);
  ASSERT_EQ(status.communication_times_size(), 1);
  EXPECT_EQ(status.communication_times(0).calls(), 2);
  EXPECT_EQ(status.communication_times(0).time().seconds(), 7);
  EXPECT_EQ(status.communication_times(0).bytes(), 8U);
}

TEST(ConvertTest, AnIdleRankIsAtNoStep) {
  EXPECT_EQ(RankStatusOf(1, {}).step(), -1);
  RankFigures figures;
  figures.position = {.phase = Phase::kDenoise, .steps_done = 7, .age = absl::Milliseconds(1500)};
  const worker::v1::RankStatus status = RankStatusOf(1, figures);
  EXPECT_EQ(status.rank(), 1);
  EXPECT_EQ(status.step(), 7);
  EXPECT_EQ(status.phase(), worker::v1::JOB_PHASE_DENOISE);
  EXPECT_EQ(status.step_age().seconds(), 1);
  EXPECT_EQ(status.step_age().nanos(), 500'000'000);
}

}  // namespace
}  // namespace patchflow
