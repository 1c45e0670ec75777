#include "client/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "client/commands.h"
#include "engine/image/jpeg.h"
#include "engine/image/png.h"
#include "engine/image/webp.h"
#include "tests/client/fake_service.h"
#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const Metadata& Told() {
  static const Metadata metadata = {{"dtype", "float32"},
                                    {"guidance_scale", "4.5"},
                                    {"height", "32"},
                                    {"layout", "serial"},
                                    {"model", "fake"},
                                    {"model_digest", "m1"},
                                    {"negative_prompt", "rain"},
                                    {"plan_digest", "p1"},
                                    {"prompt", "a star"},
                                    {"scheduler", "euler"},
                                    {"seed", "9007199254740991"},
                                    {"steps", "12"},
                                    {"width", "64"}};
  return metadata;
}

Metadata ToldWith(const std::string& field, const std::string& value) {
  Metadata metadata = Told();
  for (auto& [key, text] : metadata) {
    if (key == field) text = value;
  }
  return metadata;
}

// All of one grey, but one byte.
std::string FileOf(const Metadata& metadata, uint8_t first_byte = 100) {
  Image image{64, 32, std::vector<uint8_t>(size_t{3} * 64 * 32, 100)};
  image.pixels[0] = first_byte;
  return *EncodePng(image, metadata, 1);
}

TEST(ReplayTest, TheRequestIsWhatTheMetadataSays) {
  const auto request =
      RequestOfTexts({Told().begin(), Told().end()}, v1::IMAGE_FORMAT_PNG, absl::Seconds(90));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->model(), "fake");
  EXPECT_EQ(request->prompt().text(), "a star");
  EXPECT_EQ(request->prompt().negative_text(), "rain");
  EXPECT_EQ(request->image().width(), 64);
  EXPECT_EQ(request->image().height(), 32);
  EXPECT_EQ(request->image().count(), 1);
  EXPECT_EQ(request->sampling().steps(), 12);
  EXPECT_EQ(request->sampling().guidance_scale(), 4.5F);
  EXPECT_EQ(request->sampling().seed(), 9007199254740991U);
  EXPECT_EQ(request->sampling().scheduler(), "euler");
  EXPECT_TRUE(request->output().embed_metadata());
  EXPECT_EQ(request->scheduling().timeout().seconds(), 90);
  EXPECT_EQ(request->output().format(), v1::IMAGE_FORMAT_PNG);
  EXPECT_FALSE(request->output().has_quality());
}

TEST(ReplayTest, EveryMissingAndUnreadableFieldIsNamed) {
  ImageTexts texts(Told().begin(), Told().end());
  texts.erase("seed");
  texts["steps"] = "many";
  const std::string message(
      RequestOfTexts(texts, v1::IMAGE_FORMAT_PNG, absl::Seconds(1)).status().message());
  EXPECT_THAT(message, HasSubstr("seed: not told"));
  EXPECT_THAT(message, HasSubstr("steps: \"many\" is no number"));
  EXPECT_THAT(message, HasSubstr("--embed-metadata"));
}

TEST(ReplayTest, AFormatThatLosesSomethingMustTellItsQuality) {
  ImageTexts texts(Told().begin(), Told().end());
  const auto unknown = RequestOfTexts(texts, v1::IMAGE_FORMAT_JPEG, absl::Seconds(1));
  EXPECT_THAT(unknown.status().message(), HasSubstr("quality: not told"));
  texts["quality"] = "83";
  const auto request = RequestOfTexts(texts, v1::IMAGE_FORMAT_WEBP, absl::Seconds(1));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->output().format(), v1::IMAGE_FORMAT_WEBP);
  EXPECT_EQ(request->output().quality(), 83);
}

TEST(ReplayTest, LossyFilesAreComparedAsPngFilesAre) {
  const Image image{64, 32, std::vector<uint8_t>(size_t{3} * 64 * 32, 100)};
  const Metadata other = ToldWith("layout", "ulysses=2");
  for (const bool webp : {false, true}) {
    const auto file = [&](const Metadata& metadata, int quality) {
      return webp ? *EncodeWebp(image, metadata, quality, 1)
                  : *EncodeJpeg(image, metadata, quality);
    };
    EXPECT_EQ(RenderComparison(*CompareImages(file(Told(), 80), file(Told(), 80))), "identical");
    const auto comparison = CompareImages(file(Told(), 80), file(other, 80));
    ASSERT_TRUE(comparison.ok()) << comparison.status();
    EXPECT_EQ(RenderComparison(*comparison),
              "the same picture, in another file\n  layout: serial -> ulysses=2");
  }
}

TEST(ReplayTest, TheSameBytesAreIdentical) {
  const auto comparison = CompareImages(FileOf(Told()), FileOf(Told()));
  ASSERT_TRUE(comparison.ok());
  EXPECT_EQ(RenderComparison(*comparison), "identical");
}

TEST(ReplayTest, TheSamePictureByAnotherPlanSaysWhatDiffers) {
  const auto comparison = CompareImages(FileOf(Told()), FileOf(ToldWith("layout", "ulysses=2")));
  ASSERT_TRUE(comparison.ok());
  EXPECT_TRUE(comparison->same_picture());
  EXPECT_EQ(RenderComparison(*comparison),
            "the same picture, in another file\n  layout: serial -> ulysses=2");
}

TEST(ReplayTest, TheSamePictureBeforeItsSourceWasToldSaysSo) {
  Metadata marked = Told();
  marked.emplace_back("DigitalSourceType", "http://a/b");
  const auto comparison = CompareImages(FileOf(Told()), FileOf(marked));
  ASSERT_TRUE(comparison.ok());
  EXPECT_EQ(RenderComparison(*comparison),
            "the same picture, in another file\n  DigitalSourceType: - -> http://a/b");
}

TEST(ReplayTest, AnotherPictureSaysByHowMuchAndWhatDiffers) {
  Metadata other = ToldWith("dtype", "bfloat16");
  other.emplace_back("build", "b2");
  other.front().first = "dtype";
  const auto comparison = CompareImages(FileOf(Told()), FileOf(other, 103));
  ASSERT_TRUE(comparison.ok());
  EXPECT_FALSE(comparison->same_picture());
  EXPECT_EQ(comparison->different, 1U);
  EXPECT_EQ(comparison->largest, 3);
  // 10 log10(255^2 * 6144 / 9)
  EXPECT_NEAR(comparison->psnr_db, 76.47, 0.01);
  EXPECT_THAT(RenderComparison(*comparison),
              HasSubstr("another picture: 0.02 % of its bytes differ, by at most 3, 76.5 dB\n"
                        "  build: - -> b2\n  dtype: float32 -> bfloat16"));
  EXPECT_EQ(ComparisonJson(*comparison)["differences"][1]["then"], "float32");
}

TEST(ReplayTest, AnotherPictureByTheSamePlanIsSaid) {
  const auto comparison = CompareImages(FileOf(Told()), FileOf(Told(), 0));
  ASSERT_TRUE(comparison.ok());
  EXPECT_THAT(RenderComparison(*comparison), HasSubstr("the plan is the same: this should not be"));
}

TEST(ReplayTest, AnotherSizeIsAnotherPicture) {
  const std::string small = *EncodePng({1, 1, {1, 2, 3}}, Told(), 1);
  const auto comparison = CompareImages(FileOf(Told()), small);
  ASSERT_TRUE(comparison.ok());
  EXPECT_FALSE(comparison->same_picture());
  EXPECT_THAT(CompareImages(small, "x").status().message(), HasSubstr("the image made again"));
}

class ReplayCommandTest : public testing::Test {
 protected:
  int Replay(const std::string& made_again, std::vector<std::string> arguments = {}) {
    service_.on_generate = [made_again](grpc::ServerContext&,
                                        const v1::GenerateImagesRequest& request,
                                        const FakeService::Write& write) {
      Script script(request.request_id());
      script.Accepted(1, request.sampling().seed());
      script.Image(0, request.sampling().seed(), made_again, 1000);
      script.Completed();
      for (const auto& message : script.messages) write(message);
      return grpc::Status::OK;
    };
    std::vector<std::string> all = {"patchflow",       "replay",    file_, "--server",
                                    server_.address(), "--retries", "0",   "--quiet"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    std::vector<const char*> argv;
    for (const std::string& argument : all) argv.push_back(argument.c_str());
    Console console{out_, err_};
    Interrupt interrupt;
    return RunClient(static_cast<int>(argv.size()), argv.data(), console, interrupt);
  }

  ScratchFolder folder_;
  std::string file_ = folder_ / "image.png";
  FakeService service_;
  FakeServer server_{service_};
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(ReplayCommandTest, AnIdenticalImageIsSaidAndExitsWithZero) {
  std::ofstream(file_, std::ios::binary) << FileOf(Told());
  EXPECT_EQ(Replay(FileOf(Told())), 0) << err_.str();
  EXPECT_EQ(out_.str(), file_ + ": identical\n");
  ASSERT_EQ(service_.requests().size(), 1U);
  EXPECT_EQ(service_.requests()[0].prompt().text(), "a star");
  EXPECT_EQ(service_.requests()[0].request_id().size(), 36U);
  EXPECT_EQ(folder_.num_files(), 1U);
}

TEST_F(ReplayCommandTest, AJpegThatDoesNotTellItsQualityIsMadeAgainWithTheOneGiven) {
  const Image image{64, 32, std::vector<uint8_t>(size_t{3} * 64 * 32, 100)};
  const std::string jpeg = *EncodeJpeg(image, Told(), 70);
  std::ofstream(file_, std::ios::binary) << jpeg;
  EXPECT_EQ(Replay(jpeg), 2);
  EXPECT_THAT(err_.str(), HasSubstr("quality: not told"));
  EXPECT_EQ(Replay(jpeg, {"--quality", "70"}), 0) << err_.str();
  ASSERT_EQ(service_.requests().size(), 1U);
  EXPECT_EQ(service_.requests()[0].output().format(), v1::IMAGE_FORMAT_JPEG);
  EXPECT_EQ(service_.requests()[0].output().quality(), 70);
}

TEST_F(ReplayCommandTest, AnotherPictureExitsWithOneAndIsKeptIfAsked) {
  std::ofstream(file_, std::ios::binary) << FileOf(Told());
  const std::string again = FileOf(ToldWith("model_digest", "m2"), 7);
  EXPECT_EQ(Replay(again, {"--json", "--out", folder_ / "again.png", "--model", "other"}), 1);
  const auto json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["identical"], false);
  EXPECT_EQ(json["differences"][0]["field"], "model_digest");
  EXPECT_EQ(json["largest"], 93);
  EXPECT_EQ(ReadFile(folder_ / "again.png"), again);
  EXPECT_EQ(service_.requests()[0].model(), "other");
}

TEST_F(ReplayCommandTest, AnImageWithoutMetadataSendsNothing) {
  EXPECT_EQ(Replay(""), 2);
  EXPECT_THAT(err_.str(), HasSubstr("can't be read"));
  std::ofstream(file_, std::ios::binary) << FileOf({});
  EXPECT_EQ(Replay(""), 2);
  EXPECT_THAT(err_.str(), HasSubstr("does not say how it was made"));
  EXPECT_TRUE(service_.requests().empty());
}

TEST_F(ReplayCommandTest, WhatIsNoImageFromTheServerIsSaid) {
  std::ofstream(file_, std::ios::binary) << FileOf(Told());
  EXPECT_EQ(Replay("no picture at all"), 1);
  EXPECT_THAT(err_.str(), HasSubstr("the image made again: it is no PNG, JPEG or WebP file"));
}

}  // namespace
}  // namespace patchflow
