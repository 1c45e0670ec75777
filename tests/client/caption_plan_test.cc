#include "client/caption_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CaptionPlanTest : public testing::Test {
 protected:
  CaptionPlanTest() {
    options_.file = folder_ / "captions.txt";
    std::ofstream(options_.file) << "zero\none\ntwo\nthree\nfour\n";
  }

  absl::StatusOr<CaptionPlan> Plan(const std::string& out = "images/") {
    return PlanCaptions(options_, generate_, folder_ / out);
  }
  std::string Refusal(const std::string& out = "images/") {
    const absl::Status status = Plan(out).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  }
  void Touch(const std::string& name) {
    std::filesystem::create_directories(folder_ / "images");
    std::ofstream(folder_ / ("images/" + name)) << "x";
  }
  void KeepRecord() {
    const CaptionPlan plan = Plan().value();
    std::filesystem::create_directories(folder_ / "images");
    std::ofstream(plan.record_path) << plan.record;
  }

  ScratchFolder folder_;
  CaptionOptions options_;
  GenerateOptions generate_;
};

TEST(RangeOfPartTest, PartsAreContiguousAndTogetherAll) {
  for (const int count : {0, 1, 5, 7, 2000}) {
    for (const int parts : {1, 2, 3, 7}) {
      int next = 0;
      for (int k = 1; k <= parts; ++k) {
        const NumberRange range =
            RangeOfPart(std::to_string(k) + "/" + std::to_string(parts), count).value();
        EXPECT_EQ(range.begin, next);
        EXPECT_LE(range.end - range.begin, count / parts + 1);
        next = range.end;
      }
      EXPECT_EQ(next, count);
    }
  }
  EXPECT_EQ(RangeOfPart("", 3)->end, 3);
}

TEST(RangeOfPartTest, RefusesWhatIsNoPart) {
  for (const std::string part : {"1", "0/2", "3/2", "a/b", "1/2/3", "/", "-1/2", "1/99999999999"}) {
    EXPECT_EQ(RangeOfPart(part, 10).status().message(),
              "--part: \"" + part + "\" is not K/N with 1 <= K <= N");
  }
}

TEST_F(CaptionPlanTest, AsksForEveryImageOfAnEmptyFolder) {
  const CaptionPlan plan = Plan().value();
  EXPECT_THAT(plan.missing, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_EQ(plan.first_seed, 0U);
  EXPECT_EQ(plan.out.Expand({.prompt = 3, .ext = "png"}), folder_ / "images/00003.png");
  EXPECT_EQ(plan.record_path, folder_ / "images/generation.json");
}

TEST_F(CaptionPlanTest, KeepsWhatIsThere) {
  KeepRecord();
  Touch("00001.png");
  Touch("00003.png.77.part");
  const CaptionPlan plan = Plan().value();
  EXPECT_THAT(plan.missing, ElementsAre(0, 2, 3, 4));
  EXPECT_EQ(plan.present, 1);
}

TEST_F(CaptionPlanTest, TakesAPartOfTheFirst) {
  options_.first = 4;
  options_.part = "2/2";
  EXPECT_THAT(Plan()->missing, ElementsAre(2, 3));
  options_.first = 6;
  EXPECT_EQ(Refusal(), "--first: 6, but " + options_.file + " has 5 captions");
}

TEST_F(CaptionPlanTest, RefusesImagesMadeOtherwise) {
  generate_.steps = 20;
  generate_.seed = 7;
  KeepRecord();
  EXPECT_TRUE(Plan().ok());
  generate_.steps = 10;
  EXPECT_EQ(Refusal(), "--out: the images there were made otherwise, by " +
                           folder_ / "images/generation.json" +
                           ": request/sampling/steps; choose another folder");
  generate_.steps = 20;
  generate_.seed = 8;
  EXPECT_THAT(Refusal(), HasSubstr(": first_seed; "));
  generate_.seed = 7;
  std::ofstream(options_.file) << "zero\none\ntwo\nthree\nfive\n";
  EXPECT_THAT(Refusal(), HasSubstr(": captions_sha256; "));
}

TEST_F(CaptionPlanTest, RefusesImagesOfUnknownOrigin) {
  Touch("00002.png");
  EXPECT_EQ(Refusal(), "--out: 1 images are there, but no " + folder_ / "images/generation.json" +
                           " that says how they were made; choose an empty folder");
  std::ofstream(folder_ / "images/generation.json") << "{";
  EXPECT_THAT(Refusal(), HasSubstr("generation.json is not JSON"));
}

TEST_F(CaptionPlanTest, RefusesNamesThatCantBeForeseenOrCollide) {
  for (const std::string out : {"a.png", "{request_id}-{prompt}.png", "{model}/{prompt}.png"}) {
    EXPECT_THAT(Refusal(out), HasSubstr("with --captions it must be a folder that ends with /"));
  }
  EXPECT_EQ(Plan("{seed}.{ext}")->missing.size(), 5U);
}

TEST_F(CaptionPlanTest, RefusesOptionsThatDoNotGoWithIt) {
  const auto refusal = [this](auto set) {
    generate_ = {};
    set(generate_);
    return Refusal();
  };
  EXPECT_EQ(refusal([](auto& o) { o.prompt = "a"; }), "PROMPT: does not go with --captions");
  EXPECT_EQ(refusal([](auto& o) { o.file = "a"; }), "--file: does not go with --captions");
  EXPECT_EQ(refusal([](auto& o) { o.count = 2; }), "--count: does not go with --captions");
  EXPECT_EQ(refusal([](auto& o) { o.request_id = "a"; }),
            "--request-id: does not go with --captions");
  EXPECT_EQ(refusal([](auto& o) { o.validate_only = true; }),
            "--validate-only: does not go with --captions");
  EXPECT_EQ(refusal([](auto& o) { o.negative = "\xFF"; }), "--negative: is not UTF-8");
}

}  // namespace
}  // namespace patchflow
