#include "client/generation_result.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "client/server_error.h"
#include "tests/client/fake_service.h"

namespace patchflow {
namespace {

GenerationResult Done() {
  Script script("r-1");
  GenerationResult result;
  result.prompt = "a \"fish\"";
  result.request_id = "r-1";
  result.accepted = script.Accepted(1, 5).accepted();
  result.accepted->set_plan_digest("abc");
  script.Image(0, 5, "bytes", 5);
  result.images.push_back({"out/a.png", script.messages[1].image_header(), absl::Seconds(1.5)});
  result.completed = script.Completed().completed();
  result.retries = 1;
  result.elapsed = absl::Seconds(2);
  return result;
}

TEST(GenerationResultTest, LinesAreForPeople) {
  const GenerationResult result = Done();
  EXPECT_EQ(ImageLine(result.images[0]), "out/a.png  64x32  seed 5  1.50 s");
  EXPECT_EQ(DoneLine(result), "done in 2.00 s: denoise 0.25");
}

TEST(GenerationResultTest, JsonTellsEverything) {
  const nlohmann::json json = ResultJson(Done());
  EXPECT_EQ(json["prompt"], "a \"fish\"");
  EXPECT_EQ(json["request_id"], "r-1");
  EXPECT_EQ(json["status"], "OK");
  EXPECT_EQ(json["seconds"], 2.0);
  EXPECT_EQ(json["retries"], 1);
  EXPECT_EQ(json["images"],
            nlohmann::json::parse(R"([{"path": "out/a.png", "index": 0, "seed": 5, "width": 64,
      "height": 32, "format": "png", "bytes": 5, "seconds": 1.5,
      "sha256": "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9"}])"));
  EXPECT_EQ(json["effective"]["seed"], 5);
  EXPECT_EQ(json["effective"]["model"], "fake");
  EXPECT_EQ(json["effective"]["guidance_scale"], 0);
  EXPECT_EQ(json["plan_digest"], "abc");
  EXPECT_EQ(json["cost"], nlohmann::json::parse(R"({"steps": 20, "pixels": 2048})"));
  EXPECT_EQ(json["timings"], nlohmann::json::parse(R"({"denoise": 0.25})"));
  EXPECT_EQ(json["attempts"], 1);
  EXPECT_EQ(json["server_version"], "fake");
}

TEST(GenerationResultTest, JsonOfAFailureHasItsReason) {
  GenerationResult result;
  result.request_id = "r-1";
  result.status = StatusOf(ErrorStatus(grpc::INVALID_ARGUMENT, "INVALID_REQUEST", "wrong", -1,
                                       {{"image.width", "odd"}}));
  const nlohmann::json json = ResultJson(result);
  EXPECT_EQ(json["status"], "INVALID_ARGUMENT");
  EXPECT_EQ(json["reason"], "INVALID_REQUEST");
  EXPECT_EQ(json["violations"][0]["field"], "image.width");
  EXPECT_EQ(json["images"], nlohmann::json::array());
  EXPECT_FALSE(json.contains("effective"));
  EXPECT_FALSE(json.contains("prompt"));
}

TEST(GenerationResultTest, JsonLineIsOneLineOfUtf8) {
  EXPECT_EQ(JsonLine({{"a", "x\ny\xFFz"}}), "{\"a\":\"x\\ny\xEF\xBF\xBDz\"}");
}

TEST(GenerationResultTest, ExtensionsFollowTheFormat) {
  EXPECT_EQ(FileExtension(v1::IMAGE_FORMAT_PNG), "png");
  EXPECT_EQ(FileExtension(v1::IMAGE_FORMAT_JPEG), "jpg");
  EXPECT_EQ(FileExtension(v1::IMAGE_FORMAT_WEBP), "webp");
  EXPECT_EQ(FileExtension(v1::IMAGE_FORMAT_RAW_RGB8), "rgb");
}

}  // namespace
}  // namespace patchflow
