#include "server/log.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

namespace patchflow {
namespace {

using nlohmann::json;

TEST(LogTest, ALineIsOneJsonObject) {
  const std::string line = JsonLine({{"event", "call"}}, {{"text", "plain"},
                                                          {"number", int64_t{-5}},
                                                          {"seconds", 0.25},
                                                          {"whole", 2.0},
                                                          {"yes", true}});
  const json parsed = json::parse(line);
  EXPECT_EQ(line.find('\n'), line.npos);
  EXPECT_EQ(parsed["event"], "call");
  EXPECT_EQ(parsed["text"], "plain");
  EXPECT_EQ(parsed["number"], -5);
  EXPECT_EQ(parsed["seconds"], 0.25);
  EXPECT_TRUE(parsed["whole"].is_number_float());
  EXPECT_EQ(parsed["yes"], true);
  EXPECT_EQ(parsed["time"].get<std::string>().size(), 27U) << parsed["time"];
}

TEST(LogTest, EscapesWhatItMust) {
  for (const std::string text : {"a\"b", "a\\b", "a\nb\tc", "\x7F", "\xC3\xA9", "", "\x01"}) {
    EXPECT_EQ(json::parse(JsonLine({}, {{"text", text}}))["text"], text);
  }
  EXPECT_EQ(json::parse(JsonLine({}, {{"text", "a\xFFz"}}))["text"], "a\xEF\xBF\xBDz");
}

TEST(LogTest, WhatIsNoNumberIsNull) {
  const double infinite = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(json::parse(JsonLine({}, {{"seconds", infinite}}))["seconds"].is_null());
}

TEST(LogTest, WritesLinesOfItsLevelAndAbove) {
  const std::string before = LogLevel();
  SetLogLevel("warning");
  ::testing::internal::CaptureStderr();
  LogInfo("quiet");
  LogWarning("{} is no place for a value", {{"number", 5}});
  LogError("loud");
  StopLog();
  std::istringstream written(::testing::internal::GetCapturedStderr());
  SetLogLevel(before);
  std::string line;
  ASSERT_TRUE(std::getline(written, line));
  EXPECT_EQ(json::parse(line)["level"], "warning");
  EXPECT_EQ(json::parse(line)["msg"], "{} is no place for a value");
  EXPECT_EQ(json::parse(line)["number"], 5);
  ASSERT_TRUE(std::getline(written, line));
  EXPECT_EQ(json::parse(line)["level"], "error");
  EXPECT_FALSE(std::getline(written, line)) << line;
}

TEST(LogTest, KnowsItsLevels) {
  const std::string before = LogLevel();
  for (const char* level : {"debug", "info", "warning", "error"}) {
    EXPECT_TRUE(SetLogLevel(level));
    EXPECT_EQ(LogLevel(), level);
  }
  EXPECT_FALSE(SetLogLevel("loud"));
  EXPECT_EQ(LogLevel(), "error");
  SetLogLevel(before);
}

}  // namespace
}  // namespace patchflow
