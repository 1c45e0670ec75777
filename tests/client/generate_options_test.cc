#include "client/generate_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <fstream>
#include <set>

#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

// The options that a command line gives; throws CLI::ParseError.
GenerateOptions Parse(const std::vector<std::string>& arguments) {
  CLI::App app;
  GenerateOptions options;
  AddGenerateOptions(app, options);
  app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  return options;
}

v1::GenerateImagesRequest Build(const std::vector<std::string>& arguments,
                                const std::string& prompt = "a fish") {
  return BuildRequest(Parse(arguments), prompt, absl::Seconds(90)).value();
}

TEST(GenerateOptionsTest, EveryOptionReachesItsField) {
  const v1::GenerateImagesRequest request = Build({"-m",
                                                   "shapes",
                                                   "--width",
                                                   "512",
                                                   "--height",
                                                   "256",
                                                   "-n",
                                                   "3",
                                                   "--steps",
                                                   "14",
                                                   "--guidance",
                                                   "7.5",
                                                   "--seed",
                                                   "9007199254740991",
                                                   "--negative",
                                                   "blue",
                                                   "--scheduler",
                                                   "ddim",
                                                   "--format",
                                                   "webp",
                                                   "--quality",
                                                   "80",
                                                   "--embed-metadata",
                                                   "--priority",
                                                   "high",
                                                   "--on-disconnect",
                                                   "detach",
                                                   "--request-id",
                                                   "r-1",
                                                   "--validate-only",
                                                   "--chunk-bytes",
                                                   "1048576",
                                                   "a fish"});
  EXPECT_EQ(request.request_id(), "r-1");
  EXPECT_EQ(request.model(), "shapes");
  EXPECT_EQ(request.prompt().text(), "a fish");
  EXPECT_EQ(request.prompt().negative_text(), "blue");
  EXPECT_EQ(request.image().width(), 512);
  EXPECT_EQ(request.image().height(), 256);
  EXPECT_EQ(request.image().count(), 3);
  EXPECT_EQ(request.sampling().steps(), 14);
  EXPECT_EQ(request.sampling().guidance_scale(), 7.5F);
  EXPECT_EQ(request.sampling().seed(), 9007199254740991U);
  EXPECT_EQ(request.sampling().scheduler(), "ddim");
  EXPECT_EQ(request.output().format(), v1::IMAGE_FORMAT_WEBP);
  EXPECT_EQ(request.output().quality(), 80);
  EXPECT_TRUE(request.output().embed_metadata());
  EXPECT_EQ(request.scheduling().priority(), v1::PRIORITY_HIGH);
  EXPECT_EQ(request.scheduling().on_disconnect(), v1::DISCONNECT_POLICY_DETACH);
  EXPECT_EQ(request.scheduling().timeout().seconds(), 90);
  EXPECT_EQ(request.stream().max_chunk_bytes(), 1048576);
  EXPECT_TRUE(request.validate_only());
}

TEST(GenerateOptionsTest, WhatIsNotGivenIsLeftToTheServer) {
  const v1::GenerateImagesRequest request = Build({"a fish"});
  EXPECT_FALSE(
      request.has_image() &&
      (request.image().has_width() || request.image().has_height() || request.image().has_count()));
  EXPECT_FALSE(request.sampling().has_steps());
  EXPECT_FALSE(request.sampling().has_guidance_scale());
  EXPECT_FALSE(request.sampling().has_scheduler());
  EXPECT_FALSE(request.prompt().has_negative_text());
  EXPECT_FALSE(request.output().has_quality());
  EXPECT_EQ(request.output().format(), v1::IMAGE_FORMAT_UNSPECIFIED);
  EXPECT_EQ(request.scheduling().priority(), v1::PRIORITY_UNSPECIFIED);
  EXPECT_EQ(request.model(), "");
}

TEST(GenerateOptionsTest, ZerosAndWrongValuesAreTheServersToRefuse) {
  const v1::GenerateImagesRequest request =
      Build({"--width", "0", "--count", "-3", "--steps", "0", "--guidance", "nan", "--seed",
             "18446744073709551615", "--scheduler", "", "--negative", "", "a fish"});
  EXPECT_TRUE(request.image().has_width());
  EXPECT_EQ(request.image().count(), -3);
  EXPECT_TRUE(request.sampling().has_steps());
  EXPECT_TRUE(std::isnan(request.sampling().guidance_scale()));
  EXPECT_EQ(request.sampling().seed(), 18446744073709551615U);
  EXPECT_TRUE(request.prompt().has_negative_text());
}

TEST(GenerateOptionsTest, RefusesWhatIsNoNumberOrName) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"--width", "x"},
                                             {"--width", "1.5"},
                                             {"--steps", "99999999999"},
                                             {"--seed", "-1"},
                                             {"--guidance", "much"},
                                             {"--format", "gif"},
                                             {"--priority", "highest"},
                                             {"--on-disconnect", "stay"},
                                             {"--nonsense"},
                                             {"a fish", "another"}}) {
    EXPECT_THROW(Parse(arguments), CLI::ParseError) << arguments[0];
  }
}

TEST(GenerateOptionsTest, SizeSetsBothSides) {
  const v1::GenerateImagesRequest request = Build({"--size", "1024x512", "a fish"});
  EXPECT_EQ(request.image().width(), 1024);
  EXPECT_EQ(request.image().height(), 512);
  const auto refusal = [](const std::vector<std::string>& arguments) {
    return std::string(BuildRequest(Parse(arguments), "", absl::Seconds(1)).status().message());
  };
  for (const std::string size : {"1024", "x", "1024x", "ax1", "1x2x3", "1.5x2"}) {
    EXPECT_EQ(refusal({"--size", size}), "--size: \"" + size + "\" is not WIDTHxHEIGHT");
  }
  EXPECT_EQ(refusal({"--size", "16x16", "--width", "16"}),
            "--size: give it or --width and --height, not both");
}

TEST(GenerateOptionsTest, DrawsIdsAndSeeds) {
  std::set<std::string> ids;
  std::set<uint64_t> seeds;
  for (int i = 0; i < 100; ++i) {
    const v1::GenerateImagesRequest request = Build({"a fish"});
    EXPECT_THAT(
        request.request_id(),
        MatchesRegex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"));
    EXPECT_LT(request.sampling().seed(), uint64_t{1} << 53);
    ids.insert(request.request_id());
    seeds.insert(request.sampling().seed());
  }
  EXPECT_EQ(ids.size(), 100U);
  EXPECT_EQ(seeds.size(), 100U);
}

TEST(GenerateOptionsTest, TimeoutKeepsItsFraction) {
  const auto request = BuildRequest(Parse({"a fish"}), "", absl::Milliseconds(1500));
  EXPECT_EQ(request->scheduling().timeout().seconds(), 1);
  EXPECT_EQ(request->scheduling().timeout().nanos(), 500'000'000);
}

TEST(ReadPromptsTest, ReadsLinesThatAreNotEmpty) {
  const ScratchFolder folder;
  std::ofstream(folder / "prompts") << "a fish\n\n two birds \r\n\xF0\x9F\x8C\xB7\nlast";
  EXPECT_THAT(ReadPrompts(Parse({"--file", folder / "prompts"})).value(),
              ElementsAre("a fish", " two birds ", "\xF0\x9F\x8C\xB7", "last"));
}

TEST(ReadPromptsTest, TakesAnyPromptThatIsUtf8) {
  EXPECT_THAT(ReadPrompts(Parse({""})).value(), ElementsAre(""));
  EXPECT_THAT(ReadPrompts(Parse({"--", "--steps"})).value(), ElementsAre("--steps"));
}

TEST(ReadPromptsTest, RefusesNoneBothAndUnreadable) {
  const ScratchFolder folder;
  std::ofstream(folder / "empty") << "\n\n";
  std::ofstream(folder / "latin1") << "fine\nd\xE9j\xE0 vu\n";
  const auto refusal = [](const std::vector<std::string>& arguments) {
    return std::string(ReadPrompts(Parse(arguments)).status().message());
  };
  EXPECT_EQ(refusal({}), "give a prompt, or a file of prompts by --file");
  EXPECT_EQ(refusal({"a fish", "--file", folder / "empty"}),
            "give a prompt, or a file of prompts by --file");
  EXPECT_EQ(refusal({"--file", folder / "absent"}), "--file: can't read " + folder / "absent");
  EXPECT_EQ(refusal({"--file", folder / ""}), "--file: can't read " + folder / "");
  EXPECT_EQ(refusal({"--file", folder / "empty"}),
            "--file: " + folder / "empty" + " has no prompts");
  EXPECT_EQ(refusal({"--file", folder / "latin1"}),
            "--file: " + folder / "latin1" + ":2: is not UTF-8");
  EXPECT_EQ(refusal({"d\xE9j\xE0 vu"}), "prompt: is not UTF-8");
  EXPECT_EQ(refusal({"a fish", "--negative", "\xFF"}), "--negative: is not UTF-8");
}

}  // namespace
}  // namespace patchflow
