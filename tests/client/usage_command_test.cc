#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "client/commands.h"
#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

constexpr char kLog[] =
    R"({"time":"2026-01-01T00:00:00.000000Z","event":"call","identity":"studio","code":"OK"}
{"time":"2026-01-02T00:00:00.000000Z","event":"call","identity":"studio","code":"UNAVAILABLE"}
{"time":"2026-01-02T00:00:00.000000Z","event":"call","identity":"","code":"OK"}
{"time":"2026-01-02T00:00:01.000000Z","event":"generation","identity":"studio","code":"OK","width":1000,"height":500,"steps":20,"images":3,"device_seconds":2.5,"image_bytes":700}
{"time":"2026-01-03T00:00:01.000000Z","event":"generation","identity":"studio","code":"CANCELLED","width":1000,"height":500,"steps":20,"images":0,"device_seconds":0.5,"image_bytes":0}
)";

class UsageCommandTest : public testing::Test {
 protected:
  UsageCommandTest() { std::ofstream(folder_ / "audit.jsonl") << kLog; }

  int Run(std::vector<std::string> arguments) {
    std::vector<const char*> argv = {"patchflow", "usage"};
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    Console console{out_, err_};
    Interrupt interrupt;
    return RunClient(static_cast<int>(argv.size()), argv.data(), console, interrupt);
  }
  nlohmann::json Sums(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    EXPECT_EQ(Run(arguments), kExitOk) << err_.str();
    return nlohmann::json::parse(out_.str());
  }

  ScratchFolder folder_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(UsageCommandTest, SumsWhatEachIdentityUsed) {
  const auto sums = Sums({folder_ / "audit.jsonl"});
  ASSERT_EQ(sums.size(), 2U);
  EXPECT_EQ(sums[0]["identity"], "");
  const auto& studio = sums[1];
  EXPECT_EQ(studio["calls"], 2);
  EXPECT_EQ(studio["failed"], 1);
  EXPECT_EQ(studio["generations"], 2);
  EXPECT_EQ(studio["images"], 3);
  EXPECT_EQ(studio["megapixel_steps"], 30.0) << "3 images of half a megapixel in 20 steps";
  EXPECT_EQ(studio["device_seconds"], 3.0) << "cancelled work was used too";
  EXPECT_EQ(studio["image_bytes"], 700);
}

TEST_F(UsageCommandTest, AddsFilesUp) {
  const auto sums = Sums({folder_ / "audit.jsonl", folder_ / "audit.jsonl"});
  EXPECT_EQ(sums[1]["images"], 6);
}

TEST_F(UsageCommandTest, LeavesOutWhatIsOlder) {
  const auto sums = Sums({folder_ / "audit.jsonl", "--since", "2026-01-02"});
  EXPECT_EQ(sums[1]["calls"], 1);
  EXPECT_EQ(sums[1]["generations"], 2);
}

TEST_F(UsageCommandTest, PrintsATable) {
  EXPECT_EQ(Run({folder_ / "audit.jsonl"}), kExitOk);
  EXPECT_THAT(out_.str(), HasSubstr("IDENTITY"));
  EXPECT_THAT(out_.str(), HasSubstr("\nstudio "));
  EXPECT_THAT(out_.str(), HasSubstr("\n-  "));
}

TEST_F(UsageCommandTest, NamesTheLineThatIsNone) {
  std::ofstream(folder_ / "bad.jsonl") << "\n{\"time\": 7}\n";
  EXPECT_EQ(Run({folder_ / "bad.jsonl"}), kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("bad.jsonl:2: is no line of an audit log"));
  EXPECT_EQ(Run({folder_ / "absent"}), kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("can't read"));
}

}  // namespace
}  // namespace patchflow
