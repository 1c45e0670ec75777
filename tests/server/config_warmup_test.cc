#include "server/config_warmup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "server/config.h"
#include "tests/server/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ConfigWarmUpTest : public ::testing::Test {
 protected:
  ConfigWarmUpTest() { std::filesystem::create_directories(folder_.path("m")); }

  absl::StatusOr<ServerConfig> Parse(const std::string& warmup, const std::string& rest = "") {
    return ParseConfig(absl::StrCat("groups:\n  - {model: m, warmup: ", warmup, "}\n", rest),
                       "s.yaml", folder_.path());
  }
  std::string Faults(const std::string& warmup, const std::string& rest = "") {
    return std::string(Parse(warmup, rest).status().message());
  }

  const ScratchFolder folder_;
};

TEST_F(ConfigWarmUpTest, ListsSizes) {
  EXPECT_THAT(Parse("[1024x1024, 16x8192, 064x32]")->groups[0].warmup,
              ElementsAre("1024x1024", "16x8192", "64x32"));
  EXPECT_THAT(Parse("[]")->groups[0].warmup, IsEmpty());
}

TEST_F(ConfigWarmUpTest, NamesEveryWrongSize) {
  const std::string faults =
      Faults("[1024, 0x16, 1024x8193, 16x16x16, -16x16, 16x, 16x16, 99x1e3]");
  for (const char* text : {"1024", "0x16", "1024x8193", "16x16x16", "-16x16", "16x", "99x1e3"}) {
    EXPECT_THAT(faults, HasSubstr(absl::StrCat("s.yaml:2: groups[0].warmup: '", text,
                                               "' is not WIDTHxHEIGHT, each 1 to 8192")));
  }
  EXPECT_EQ(std::count(faults.begin(), faults.end(), '\n'), 6) << faults;
  EXPECT_THAT(Faults("1024x1024"), HasSubstr("groups[0].warmup: a sequence of strings is needed"));
}

TEST_F(ConfigWarmUpTest, RefusesASizeThatIsNamedTwice) {
  EXPECT_THAT(Faults("[32x16, 16x32, 32x16]"), HasSubstr("groups[0].warmup: 32x16 is named twice"));
  EXPECT_THAT(Faults("[32x16, 032x16]"), HasSubstr("032x16 is named twice"));
}

TEST_F(ConfigWarmUpTest, TakesSixteenSizes) {
  std::string sizes = "16x16";
  for (int i = 2; i <= 16; ++i) absl::StrAppend(&sizes, ", 16x", 16 * i);
  EXPECT_EQ(Parse(absl::StrCat("[", sizes, "]"))->groups[0].warmup.size(), 16U);
  EXPECT_THAT(Faults(absl::StrCat("[", sizes, ", 32x16]")),
              HasSubstr("groups[0].warmup: 17 sizes, limit 16"));
}

TEST_F(ConfigWarmUpTest, KeepsToTheLimitOfRequests) {
  const std::string limit = "limits: {max_pixels: 65536}\n";
  EXPECT_TRUE(Parse("[256x256]", limit).ok());
  EXPECT_THAT(Faults("[256x256, 272x256]", limit),
              HasSubstr("groups[0].warmup: 272x256: 69632 pixels are above the limit of 65536 "
                        "(limits.max_pixels)"));
}

TEST_F(ConfigWarmUpTest, BelongsToARemoteWorkersOwnCommandLine) {
  const auto config =
      ParseConfig("groups: [{model_name: m, workers: [\"127.0.0.1:1\"], warmup: [64x64]}]",
                  "s.yaml", folder_.path());
  EXPECT_THAT(std::string(config.status().message()),
              HasSubstr("groups[0].warmup: belongs to the worker's own command line"));
}

}  // namespace
}  // namespace patchflow
