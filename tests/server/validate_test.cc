#include "server/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "google/rpc/error_details.pb.h"
#include "server/errors.h"
#include "tests/server/test_model.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::GenerateImagesRequest Request() {
  v1::GenerateImagesRequest request;
  request.mutable_prompt()->set_text("a red circle");
  return request;
}

struct Outcome {
  absl::Status status;
  std::string reason;
  std::vector<std::string> fields;
  std::string message;
};

Outcome Check(const v1::GenerateImagesRequest& request) {
  Outcome outcome;
  outcome.status = Validate(request, TestModel()).status();
  outcome.reason = ReasonOf(outcome.status);
  outcome.message = std::string(outcome.status.message());
  if (auto payload = outcome.status.GetPayload(kBadRequestUrl)) {
    google::rpc::BadRequest bad;
    bad.ParseFromString(std::string(*payload));
    for (const auto& violation : bad.field_violations()) {
      outcome.fields.push_back(violation.field());
    }
  }
  return outcome;
}

void ExpectInvalid(const v1::GenerateImagesRequest& request, const std::string& field,
                   const std::string& text) {
  const Outcome outcome = Check(request);
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(outcome.reason, "INVALID_REQUEST") << outcome.message;
  EXPECT_THAT(outcome.fields, ElementsAre(field));
  EXPECT_THAT(outcome.message, HasSubstr(field + ": " + text));
}

void ExpectAboveLimit(const v1::GenerateImagesRequest& request, const std::string& field,
                      const std::string& value, const std::string& limit) {
  const Outcome outcome = Check(request);
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(outcome.reason, "LIMIT_EXCEEDED") << outcome.message;
  EXPECT_THAT(outcome.fields, ElementsAre(field));
  EXPECT_EQ(MetadataOf(outcome.status, "value"), value);
  EXPECT_EQ(MetadataOf(outcome.status, "limit"), limit);
  EXPECT_THAT(outcome.message, HasSubstr(value));
  EXPECT_THAT(outcome.message, HasSubstr(limit));
}

TEST(ValidateTest, TakesTheModelsDefaults) {
  auto params = Validate(Request(), TestModel());
  ASSERT_TRUE(params.ok()) << params.status();
  EXPECT_EQ(params->width(), 256);
  EXPECT_EQ(params->height(), 256);
  EXPECT_EQ(params->count(), 1);
  EXPECT_EQ(params->steps(), 4);
  EXPECT_EQ(params->guidance_scale(), 4.5F);
  EXPECT_EQ(params->scheduler(), "dpm-solver++");
  EXPECT_EQ(params->format(), v1::IMAGE_FORMAT_PNG);
  EXPECT_EQ(params->quality(), 0);
  EXPECT_EQ(params->model(), "shapes");
  EXPECT_EQ(params->model_digest(), "d1");
}

TEST(ValidateTest, TakesQualityOnlyForLossyFormats) {
  auto request = Request();
  request.mutable_output()->set_quality(50);
  EXPECT_EQ(Validate(request, TestModel())->quality(), 0);
  request.mutable_output()->set_format(v1::IMAGE_FORMAT_JPEG);
  EXPECT_EQ(Validate(request, TestModel())->quality(), 50);
  request.mutable_output()->clear_quality();
  EXPECT_EQ(Validate(request, TestModel())->quality(), 90);
}

TEST(ValidateTest, RefusesWrongSizes) {
  for (auto [value, text] : {std::pair{0, "0 is less than 16"},
                             {-16, "-16 is less than 16"},
                             {1000, "1000 is not a multiple of 16"}}) {
    auto request = Request();
    request.mutable_image()->set_width(value);
    ExpectInvalid(request, "image.width", text);
    request = Request();
    request.mutable_image()->set_height(value);
    ExpectInvalid(request, "image.height", text);
  }
}

TEST(ValidateTest, RefusesSizesAboveTheLimit) {
  auto request = Request();
  request.mutable_image()->set_width(100000);
  ExpectAboveLimit(request, "image.width", "100000", "2048");
  request.mutable_image()->set_width(2048);
  request.mutable_image()->set_height(1024);
  ExpectAboveLimit(request, "image", "2097152", "1048576");
}

TEST(ValidateTest, RefusesWrongCountsAndSteps) {
  auto request = Request();
  request.mutable_image()->set_count(0);
  ExpectInvalid(request, "image.count", "0 is less than 1");
  request.mutable_image()->set_count(100);
  ExpectAboveLimit(request, "image.count", "100", "8");
  request = Request();
  request.mutable_sampling()->set_steps(0);
  ExpectInvalid(request, "sampling.steps", "0 is less than 1");
  request.mutable_sampling()->set_steps(10000);
  ExpectAboveLimit(request, "sampling.steps", "10000", "200");
}

TEST(ValidateTest, RefusesWrongGuidance) {
  for (auto [value, text] : {std::pair{std::nanf(""), "nan is not a finite number"},
                             {INFINITY, "inf is not a finite number"},
                             {-1.0F, "-1 is less than 1"},
                             {0.5F, "0.5 is less than 1"}}) {
    auto request = Request();
    request.mutable_sampling()->set_guidance_scale(value);
    ExpectInvalid(request, "sampling.guidance_scale", text);
  }
  auto request = Request();
  request.mutable_sampling()->set_guidance_scale(31);
  ExpectAboveLimit(request, "sampling.guidance_scale", "31", "30");
}

TEST(ValidateTest, RefusesSeedsThatJsonCannotHold) {
  auto request = Request();
  request.mutable_sampling()->set_seed((uint64_t{1} << 53) - 1);
  EXPECT_TRUE(Check(request).status.ok());
  request.mutable_sampling()->set_seed(uint64_t{1} << 53);
  ExpectInvalid(request, "sampling.seed", "9007199254740992 is more than 9007199254740991");
}

TEST(ValidateTest, TakesEmptyPromptsAndEmoji) {
  auto request = Request();
  request.mutable_prompt()->set_text("");
  EXPECT_TRUE(Check(request).status.ok());
  request.mutable_prompt()->set_text("\xF0\x9F\x8C\x9F star \xE6\x98\x9F");
  EXPECT_TRUE(Check(request).status.ok());
}

TEST(ValidateTest, RefusesWrongPrompts) {
  ExpectInvalid({}, "prompt", "is required");
  auto request = Request();
  request.mutable_prompt()->set_text(std::string(1 << 20, 'x'));
  ExpectInvalid(request, "prompt.text", "has 1048576 bytes; at most 8192 are allowed");
  request.mutable_prompt()->set_text(std::string("a\0b", 3));
  ExpectInvalid(request, "prompt.text", "has a NUL character at byte 1");
  request = Request();
  request.mutable_prompt()->set_negative_text(std::string("\0", 1));
  ExpectInvalid(request, "prompt.negative_text", "has a NUL character at byte 0");
}

TEST(ValidateTest, RefusesUnknownSchedulersAndFormats) {
  auto request = Request();
  request.mutable_sampling()->set_scheduler("euler-ancestral");
  ExpectInvalid(request, "sampling.scheduler",
                "'euler-ancestral' is none of dpm-solver++, ddim, euler");
  request = Request();
  request.mutable_output()->set_format(static_cast<v1::ImageFormat>(77));
  ExpectInvalid(request, "output.format", "77 is no ImageFormat");
  request = Request();
  request.mutable_output()->set_quality(101);
  ExpectInvalid(request, "output.quality", "101 is not in 1 to 100");
}

TEST(ValidateTest, RefusesWrongRequestIds) {
  auto request = Request();
  request.set_request_id("a b");
  ExpectInvalid(request, "request_id", "may only have letters");
  request.set_request_id(std::string(65, 'a'));
  ExpectInvalid(request, "request_id", "has 65 bytes");
  request.set_request_id("2f1e-A_b.c");
  EXPECT_TRUE(Check(request).status.ok());
  EXPECT_TRUE(ValidateRequestId("", false).ok());
  EXPECT_EQ(ReasonOf(ValidateRequestId("", true)), "INVALID_REQUEST");
}

TEST(ValidateTest, RefusesWrongStreamOptionsAndHints) {
  auto request = Request();
  request.mutable_stream()->set_progress_every_steps(-1);
  ExpectInvalid(request, "stream.progress_every_steps", "-1 is negative");
  request = Request();
  request.mutable_stream()->set_max_chunk_bytes(100);
  ExpectInvalid(request, "stream.max_chunk_bytes", "100 is not 0 or in 1024 to 1048576");
  request = Request();
  request.mutable_scheduling()->set_priority(static_cast<v1::Priority>(9));
  ExpectInvalid(request, "scheduling.priority", "9 is no Priority");
  request = Request();
  request.mutable_scheduling()->mutable_timeout()->set_seconds(-1);
  ExpectInvalid(request, "scheduling.timeout", "-1 s and 0 ns is not a positive duration");
}

TEST(ValidateTest, ReportsAllWrongFieldsInOneAnswer) {
  v1::GenerateImagesRequest request;
  request.set_request_id("!");
  request.mutable_prompt()->set_text(std::string(1, '\0'));
  request.mutable_image()->set_width(0);
  request.mutable_image()->set_height(100000);
  request.mutable_image()->set_count(100);
  request.mutable_sampling()->set_steps(0);
  request.mutable_sampling()->set_guidance_scale(-1);
  request.mutable_sampling()->set_seed(uint64_t{1} << 60);
  request.mutable_sampling()->set_scheduler("none");
  request.mutable_output()->set_quality(0);
  const Outcome outcome = Check(request);
  EXPECT_EQ(outcome.reason, "INVALID_REQUEST");
  EXPECT_THAT(outcome.fields,
              ElementsAre("request_id", "prompt.text", "image.width", "image.height", "image.count",
                          "sampling.steps", "sampling.guidance_scale", "sampling.seed",
                          "sampling.scheduler", "output.quality"));
}

TEST(ValidateTest, RefusesUnaryAnswersThatMayBeTooLarge) {
  v1::EffectiveParams params;
  params.set_width(1024);
  params.set_height(1024);
  params.set_count(1);
  EXPECT_TRUE(ValidateUnarySize(params, (4 << 20) - (64 << 10)).ok());
  params.set_count(2);
  const absl::Status status = ValidateUnarySize(params, (4 << 20) - (64 << 10));
  EXPECT_EQ(ReasonOf(status), "LIMIT_EXCEEDED");
  EXPECT_EQ(MetadataOf(status, "limit"), "4128768");
}

}  // namespace
}  // namespace patchflow
