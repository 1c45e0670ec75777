#include "engine/text/added_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace patchflow {
namespace {

using testing::ElementsAre;

// Runs as one string each, tokens in braces.
std::vector<std::string> Split(const std::vector<AddedToken>& tokens, std::string_view text) {
  std::vector<std::string> out;
  const AddedTokens added(tokens);
  for (const AddedTokens::Run& run : added.Split(text)) {
    out.push_back(run.token != nullptr ? "{" + run.text + "}" : run.text);
  }
  return out;
}

const std::vector<AddedToken> kTokens = {
    {.content = "</s>", .id = 1},
    {.content = "<a>", .id = 2, .strip_left = true, .strip_right = true},
    {.content = "<one>", .id = 3, .single_word = true},
    {.content = "<o", .id = 4},
};

TEST(AddedTokensTest, CutsAtTokensAlone) {
  EXPECT_THAT(Split(kTokens, ""), ElementsAre());
  EXPECT_THAT(Split(kTokens, "x < y"), ElementsAre("x < y"));
  EXPECT_THAT(Split(kTokens, "</s>"), ElementsAre("{</s>}"));
  EXPECT_THAT(Split(kTokens, "x </s></s>y"), ElementsAre("x ", "{</s>}", "{</s>}", "y"));
  EXPECT_THAT(Split(kTokens, "<</s"), ElementsAre("<</s"));
}

TEST(AddedTokensTest, PrefersTheLongest) {
  EXPECT_THAT(Split(kTokens, "a <one> b"), ElementsAre("a ", "{<one>}", " b"));
  EXPECT_THAT(Split(kTokens, "a <on"), ElementsAre("a ", "{<o}", "n"));
}

TEST(AddedTokensTest, TakesWhiteSpaceAlongWhereToldTo) {
  EXPECT_THAT(Split(kTokens, "x \u3000<a>\n y"), ElementsAre("x", "{<a>}", "y"));
  EXPECT_THAT(Split(kTokens, "  <a>  "), ElementsAre("{<a>}"));
  EXPECT_THAT(Split(kTokens, " </s> "), ElementsAre(" ", "{</s>}", " "));
}

TEST(AddedTokensTest, LeavesSingleWordsInsideWords) {
  EXPECT_THAT(Split(kTokens, "a<one> b"), ElementsAre("a<one>", " b"));
  EXPECT_THAT(Split(kTokens, "a <one>b"), ElementsAre("a ", "<one>b"));
}

TEST(AddedTokensTest, TheLastOfEqualContentsHolds) {
  const AddedTokens added({{.content = "x", .id = 1}, {.content = "x", .id = 2}, {.content = ""}});
  EXPECT_EQ(added.Find("x")->id, 2);
  EXPECT_EQ(added.Find(""), nullptr);
  EXPECT_EQ(added.Find("y"), nullptr);
}

}  // namespace
}  // namespace patchflow
