#include "engine/weights/json_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/engine/weights/scratch_dir.h"

namespace patchflow {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;

class JsonFieldsTest : public testing::Test {
 protected:
  JsonFields Fields(std::string_view text) {
    auto fields = JsonFields::Read(dir_.Write("config.json", text));
    EXPECT_TRUE(fields.ok()) << fields.status();
    return *std::move(fields);
  }
  std::string Line(const std::string& rest) const {
    return (dir_.path() / "config.json").string() + ": " + rest;
  }

  ScratchDir dir_;
};

TEST_F(JsonFieldsTest, ReadsEveryKind) {
  JsonFields f = Fields(
      R"({"i": 28, "d": 0.5, "n": 3, "inf": -Infinity, "b": true, "s": "x", "is": [1, 2], "ss": ["a", "b"]})");
  EXPECT_EQ(f.Int("i", {.min = 1, .max = 100}), 28);
  EXPECT_EQ(f.Double("d"), 0.5);
  EXPECT_EQ(f.Double("n"), 3.0);
  EXPECT_EQ(f.Double("inf"), -INFINITY);
  EXPECT_TRUE(f.Bool("b"));
  EXPECT_EQ(f.String("s"), "x");
  EXPECT_THAT(f.Ints("is", {}), ElementsAre(1, 2));
  EXPECT_THAT(f.Strings("ss"), ElementsAre("a", "b"));
  EXPECT_TRUE(f.Finish().ok()) << f.Finish();
}

TEST_F(JsonFieldsTest, TakesTheFallbackForAbsentAndNull) {
  JsonFields f = Fields(R"({"null": null})");
  for (const char* field : {"null", "absent"}) {
    EXPECT_FALSE(f.Has(field));
    EXPECT_EQ(f.IntOr(field, 7, {.min = 1}), 7);
    EXPECT_EQ(f.DoubleOr(field, 0.25), 0.25);
    EXPECT_TRUE(f.BoolOr(field, true));
    EXPECT_EQ(f.StringOr(field, "y"), "y");
    EXPECT_THAT(f.IntsOr(field, {3}, {}), ElementsAre(3));
    EXPECT_THAT(f.StringsOr(field, {"z"}), ElementsAre("z"));
    f.Expect(field, true);
  }
  EXPECT_TRUE(f.Finish().ok()) << f.Finish();
}

TEST_F(JsonFieldsTest, ReportsEveryErrorWithFileFieldAndValue) {
  JsonFields f = Fields(
      R"({"s": 5, "i": "x", "f": 1.5, "low": 0, "huge": 18446744073709551615, "b": 1, "n": null,
          "is": [1, "2"], "neg": [1, -1], "ss": "a", "kind": "old", "d": []})");
  f.String("s");
  f.Int("i", {});
  f.Int("f", {.min = 0});
  f.IntOr("low", 3, {.min = 1, .max = 9});
  f.Int("huge", {.min = 0});
  f.Bool("b");
  f.Double("n");
  f.Double("absent");
  f.Ints("is", {});
  f.IntsOr("neg", {}, {.min = 0});
  f.Strings("ss");
  f.Expect("kind", "new");
  f.Double("d");
  f.Refuse("kind", "which nobody makes");
  f.Fail("i and f disagree");
  const std::string expected =
      Line("s is 5, not a string\n") + Line("i is \"x\", not an integer\n") +
      Line("f is 1.5, not an integer >= 0\n") + Line("low is 0, not an integer in [1, 9]\n") +
      Line("huge is 18446744073709551615, not an integer >= 0\n") +
      Line("b is 1, not true or false\n") + Line("n is null\n") + Line("absent is missing\n") +
      Line("is is [1,\"2\"], not a list of which each is an integer\n") +
      Line("neg is [1,-1], not a list of which each is an integer >= 0\n") +
      Line("ss is \"a\", not a list of strings\n") +
      Line("kind is \"old\", only \"new\" is supported\n") + Line("d is [], not a number\n") +
      Line("kind is \"old\", which nobody makes\n") + Line("i and f disagree");
  EXPECT_EQ(f.Finish().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(f.Finish().message(), expected);
}

TEST_F(JsonFieldsTest, ReturnsAValueInRangeAfterAnError) {
  JsonFields f = Fields(R"({"n": 0})");
  EXPECT_EQ(f.Int("n", {.min = 1, .max = 9}), 1);
}

TEST_F(JsonFieldsTest, ReportsNestedFieldsByTheirPath) {
  JsonFields f = Fields(R"({"a": {"b": {"c": "x"}}, "wrong": 3})");
  f.Object("a").Object("b").Int("c", {});
  f.Object("absent").Int("d", {});
  f.Object("wrong").IntOr("e", 1, {});
  EXPECT_EQ(f.Finish().message(), Line("a.b.c is \"x\", not an integer\n") +
                                      Line("absent.d is missing\n") +
                                      Line("wrong is 3, not an object"));
}

TEST_F(JsonFieldsTest, ShortensWhatItShows) {
  JsonFields f = Fields("{\"a\": \"" + std::string(100'000, 'x') + "\"}");
  f.Int("a", {});
  EXPECT_LT(f.Finish().message().size(), 300);
}

TEST(JsonFileTest, SaysWhatIsWrongWithAFile) {
  const ScratchDir dir;
  const auto read = [](const std::filesystem::path& file) {
    return JsonFields::Read(file).status();
  };
  EXPECT_EQ(read(dir.path() / "none.json").code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(read(dir.path() / "none.json").message()), HasSubstr("none.json"));
  EXPECT_EQ(read(dir.path()).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(read(dir.Write("empty.json", "")).message()),
              AllOf(HasSubstr("empty.json"), HasSubstr("not JSON at byte 1 of 0")));
  EXPECT_THAT(std::string(read(dir.Write("list.json", "[1]")).message()),
              EndsWith("holds [1], not an object"));
  EXPECT_THAT(std::string(read(dir.Write("cut.json", "{\"a\": 1")).message()),
              HasSubstr("at byte 8 of 7"));
}

TEST(JsonFileTest, ReadsAnAbsentFileAsEmptyWhereAllowed) {
  const ScratchDir dir;
  auto absent = JsonFields::ReadIfPresent(dir.path() / "none.json");
  ASSERT_TRUE(absent.ok()) << absent.status();
  EXPECT_EQ(absent->IntOr("a", 3, {}), 3);
  absent->Int("b", {});
  EXPECT_THAT(std::string(absent->Finish().message()), HasSubstr("none.json: b is missing"));
  EXPECT_FALSE(JsonFields::ReadIfPresent(dir.Write("cut.json", "{")).ok());
}

TEST(JsonFileTest, RefusesHugeFiles) {
  const ScratchDir dir;
  const auto file = dir.Write("huge.json", "{}");
  std::filesystem::resize_file(file, (64 << 20) + 1);
  EXPECT_THAT(std::string(ReadJsonFile(file).status().message()),
              HasSubstr("67108865 bytes, the limit is 67108864"));
}

}  // namespace
}  // namespace patchflow
