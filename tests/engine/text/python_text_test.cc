#include "engine/text/python_text.h"

#include <gtest/gtest.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

namespace patchflow {
namespace {

constexpr int kPythonUnicode = 14;  // Of the Python that wrote the golden file.

std::string Utf8(UChar32 c) {
  char bytes[U8_MAX_LENGTH];
  int32_t length = 0;
  U8_APPEND_UNSAFE(bytes, length, c);
  return {bytes, static_cast<size_t>(length)};
}

const nlohmann::json& Golden() {
  static const auto& golden = *new nlohmann::json(
      nlohmann::json::parse(std::ifstream("tests/golden/tokenizer/python_text.json")));
  return golden;
}

// Every code point that Python knows.
template <typename Function>
void ForEachCodePoint(const Function& function) {
  for (UChar32 c = 0; c <= UCHAR_MAX_VALUE; ++c) {
    UVersionInfo age;
    u_charAge(c, age);
    if (!U_IS_SURROGATE(c) && age[0] <= kPythonUnicode) function(c);
  }
}

TEST(PythonLowerTest, EqualsPythonOnEveryCodePoint) {
  std::map<UChar32, std::string> lower;
  for (const auto& [code, text] : Golden()["lower"].items()) {
    lower[std::stoi(code, nullptr, 16)] = text.get<std::string>();
  }
  ASSERT_GT(lower.size(), 1400);
  ForEachCodePoint([&](UChar32 c) {
    const auto changed = lower.find(c);
    ASSERT_EQ(PythonLower(Utf8(c)), changed == lower.end() ? Utf8(c) : changed->second)
        << std::hex << c;
  });
}

TEST(PythonLowerTest, EqualsPythonOnFinalSigmas) {
  ASSERT_GT(Golden()["words"].size(), 150);
  for (const auto& [word, lower] : Golden()["words"].items()) {
    EXPECT_EQ(PythonLower(word), lower.get<std::string>()) << word;
  }
  EXPECT_EQ(PythonLower("ΟΔΥΣΣΕΥΣ ΣΑΣ."), "οδυσσευς σας.");
}

TEST(PythonLowerTest, GrowsWhereLettersDo) {
  std::string dotted;
  std::string expected;
  for (int i = 0; i < 1000; ++i) {
    dotted += "İ";
    expected += "i\u0307";
  }
  EXPECT_EQ(PythonLower(dotted), expected);
  EXPECT_EQ(PythonLower(""), "");
  EXPECT_EQ(PythonLower(std::string_view("A\0B", 3)), std::string("a\0b", 3));
}

TEST(PythonStripTest, EqualsPythonOnEveryCodePoint) {
  std::set<UChar32> spaces;
  for (const auto& code : Golden()["spaces"]) spaces.insert(code.get<UChar32>());
  ASSERT_EQ(spaces.size(), 29);
  ForEachCodePoint([&](UChar32 c) {
    const std::string text = Utf8(c);
    ASSERT_EQ(PythonStrip(text).empty(), spaces.contains(c)) << std::hex << c;
    ASSERT_EQ(PythonStripLeft(text).empty(), spaces.contains(c)) << std::hex << c;
    ASSERT_EQ(PythonStripRight(text).empty(), spaces.contains(c)) << std::hex << c;
  });
}

TEST(PythonStripTest, StripsTheEndsAlone) {
  EXPECT_EQ(PythonStrip(" \t\u3000a \u00a0b\u2028\n"), "a \u00a0b");
  EXPECT_EQ(PythonStripLeft(" a "), "a ");
  EXPECT_EQ(PythonStripRight(" a "), " a");
  EXPECT_EQ(PythonStrip(" \n "), "");
  EXPECT_EQ(PythonStrip(""), "");
}

}  // namespace
}  // namespace patchflow
