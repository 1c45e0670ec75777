#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "client/commands.h"
#include "client/tar_gz.h"
#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

constexpr char kKilled[] =
    R"json({"time": "2026-01-02T03:04:05Z", "group": "main", "request": {"id": "r-7"},
        "loss": {"kind": "process_ended", "why": "its process ended"},
        "process": {"pid": 42, "end": {"text": "signal 9 (Killed)", "signal": 9, "status": 0}}})json";

class DiagnoseCommandTest : public testing::Test {
 protected:
  int Run(std::vector<std::string> arguments) {
    std::vector<const char*> argv = {"patchflow", "diagnose"};
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    Console console{out_, err_};
    Interrupt interrupt;
    return RunClient(static_cast<int>(argv.size()), argv.data(), console, interrupt);
  }
  // What another program says of an archive.
  static std::string Tar(const std::string& options, const std::string& archive) {
    FILE* tar = popen(("tar " + options + " " + archive + " 2>&1").c_str(), "r");
    std::string text;
    for (int byte = 0; (byte = fgetc(tar)) != EOF;) text += static_cast<char>(byte);
    EXPECT_EQ(pclose(tar), 0) << text;
    return text;
  }

  ScratchFolder folder_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(DiagnoseCommandTest, NamesTheCauseOfTheNewestAndPacksAll) {
  std::ofstream(folder_ / "black-box-20260101T000000-main-1.json") << "{}";
  std::ofstream(folder_ / "black-box-20260102T030405-main-42.json") << kKilled;
  std::ofstream(folder_ / "unrelated.txt") << "no box";
  const std::string bundle = folder_ / "bundle.tar.gz";
  ASSERT_EQ(Run({folder_ / "", "--out", bundle}), kExitOk) << err_.str();
  for (const char* part : {"cause: killed\n", "from outside", "group: main\n", "request: r-7\n",
                           "process: 42\n", "older boxes beside it: 1\n"}) {
    EXPECT_THAT(out_.str(), HasSubstr(part));
  }
  EXPECT_EQ(Tar("-tzf", bundle),
            "diagnosis.txt\nblack-box-20260102T030405-main-42.json\n"
            "black-box-20260101T000000-main-1.json\n");
  EXPECT_EQ(Tar("-xzOf", bundle + " black-box-20260102T030405-main-42.json"), kKilled);
  EXPECT_THAT(Tar("-xzOf", bundle + " diagnosis.txt"), HasSubstr("cause: killed"));
}

TEST_F(DiagnoseCommandTest, SpeaksJson) {
  std::ofstream(folder_ / "box.json") << kKilled;
  ASSERT_EQ(Run({folder_ / "box.json", "--json", "--no-bundle"}), kExitOk) << err_.str();
  const auto json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["cause"], "killed");
  EXPECT_FALSE(json.contains("bundle"));
}

TEST_F(DiagnoseCommandTest, OverwritesNoBundle) {
  std::ofstream(folder_ / "box.json") << kKilled;
  std::ofstream(folder_ / "bundle.tar.gz") << "precious";
  EXPECT_EQ(Run({folder_ / "box.json", "--out", folder_ / "bundle.tar.gz"}), kExitOther);
  EXPECT_EQ(ReadFile(folder_ / "bundle.tar.gz"), "precious");
}

TEST_F(DiagnoseCommandTest, SaysThatThereIsNoBox) {
  EXPECT_EQ(Run({folder_ / ""}), kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("no black box in"));
  EXPECT_EQ(Run({folder_ / "nothing"}), kExitUsage);
}

TEST(TarGzTest, RefusesANameThatDoesNotFit) {
  const ScratchFolder folder;
  EXPECT_TRUE(absl::IsInvalidArgument(
      WriteTarGz(folder / "a.tar.gz", {{std::string(100, 'n'), ""}}, absl::UnixEpoch())));
}

}  // namespace
}  // namespace patchflow
