#include "engine/weights/json_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

namespace patchflow {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

constexpr JsonRules kAsPython{.nonfinite = true};

nlohmann::json Parsed(std::string_view text) {
  auto value = ParseJson(text, "f", kAsPython);
  EXPECT_TRUE(value.ok()) << value.status();
  return value.ok() ? *value : nlohmann::json();
}

std::string Error(std::string_view text, const JsonRules& rules = kAsPython) {
  const auto value = ParseJson(text, "some/file.json", rules);
  EXPECT_EQ(value.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(value.status().message());
}

TEST(JsonTextTest, ReadsPythonsNonFiniteNumbers) {
  const auto value = Parsed(R"({"a": -Infinity, "b": [NaN, Infinity], "c": {"d":NaN}})");
  EXPECT_EQ(value["a"].get<double>(), -INFINITY);
  EXPECT_TRUE(std::isnan(value["b"][0].get<double>()));
  EXPECT_EQ(value["b"][1].get<double>(), INFINITY);
  EXPECT_TRUE(std::isnan(value["c"]["d"].get<double>()));
  EXPECT_EQ(Parsed("-Infinity").get<double>(), -INFINITY);
}

TEST(JsonTextTest, LeavesStringsAlone) {
  const auto value = Parsed(
      R"({"NaN": "NaN", "-Infinity": "a \"NaN\" \\", "N": NaN, "k": "N", "Infini": "-Infini"})");
  EXPECT_EQ(value["NaN"], "NaN");
  EXPECT_EQ(value["-Infinity"], "a \"NaN\" \\");
  EXPECT_TRUE(std::isnan(value["N"].get<double>()));
  EXPECT_EQ(value["k"], "N");
  EXPECT_EQ(value["Infini"], "-Infini");
}

TEST(JsonTextTest, TakesWholeWordsOnlyForNumbers) {
  for (const char* text : {"NaNa", "xNaN", "--Infinity", "+Infinity", "-NaN", "nan", "Infinity1",
                           "{NaN: 1}", "-infinity", "NaN NaN"}) {
    EXPECT_FALSE(ParseJson(text, "f", kAsPython).ok()) << text;
  }
}

TEST(JsonTextTest, RefusesNonFiniteNumbersUnlessAllowed) {
  EXPECT_THAT(Error(R"({"a": NaN})", {}), HasSubstr("NaN or Infinity"));
}

TEST(JsonTextTest, NamesSourceAndByte) {
  EXPECT_THAT(Error("{\"a\": 1,}"),
              AllOf(StartsWith("some/file.json: not JSON at byte 9 of 9"), HasSubstr("expected")));
  EXPECT_THAT(Error("{\"a\": NaN, \"b\": }"), HasSubstr("at byte 17 of 17"));
  EXPECT_THAT(Error(""), HasSubstr("at byte 1 of 0"));
  EXPECT_THAT(Error("{} {}"), HasSubstr("at byte 4 of 5"));
  EXPECT_THAT(Error("{\"a\": \"\xff\"}"), HasSubstr("UTF-8"));
}

TEST(JsonTextTest, NeverRepeatsRawBytesInErrors) {
  for (const char c : Error("\x80\x81\xff")) EXPECT_GE(c, 0x20);
}

TEST(JsonTextTest, LimitsDepth) {
  const std::string deep = std::string(10'000'000, '[');
  EXPECT_THAT(Error(deep), HasSubstr("nested 10000000 deep, the limit is 64"));
  EXPECT_TRUE(ParseJson("[[1]]", "f", {.max_depth = 2}).ok());
  EXPECT_THAT(Error("[[[1]]]", {.max_depth = 2}), HasSubstr("nested 3 deep, the limit is 2"));
  EXPECT_TRUE(ParseJson("[\"[[[[\"]", "f", {.max_depth = 1}).ok());
}

TEST(JsonTextTest, RefusesEqualKeysWhereTheyMustBeUnique) {
  const std::string text = R"({"a": {"x": 1}, "b": {"x": 2}, "a": 3})";
  EXPECT_EQ(Parsed(text)["a"], 3);
  EXPECT_THAT(Error(text, {.unique_keys = true}), HasSubstr("the key \"a\" stands twice"));
  EXPECT_TRUE(ParseJson(R"({"a": {"x": 1}, "b": {"x": 2}})", "f", {.unique_keys = true}).ok());
}

TEST(JsonTextTest, AbbreviatesLongValues) {
  EXPECT_EQ(Abbreviated(nlohmann::json("short")), "\"short\"");
  EXPECT_EQ(Abbreviated(nlohmann::json(std::string(500, 'x'))).size(), 63);
}

TEST(JsonTextTest, NeverCrashesOnDamagedText) {
  const std::string valid =
      R"({"a": -Infinity, "b": [1, 2.5e3, "x\"y", true, null], "c": {"d": NaN, "e": "é"}})";
  std::mt19937 random(7);
  for (int i = 0; i < 50'000; ++i) {
    std::string text = valid;
    for (int n = static_cast<int>(random() % 4); n >= 0; --n) {
      text[random() % text.size()] = static_cast<char>(random());
    }
    if (random() % 4 == 0) text.resize(random() % text.size());
    const auto value = ParseJson(text, "f", {.nonfinite = true, .unique_keys = true});
    if (value.ok()) Abbreviated(*value);
  }
}

}  // namespace
}  // namespace patchflow
