#include "client/chaos_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "client/commands.h"
#include "tests/client/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

class ChaosServerTest : public testing::Test {
 protected:
  // A program that says this and waits to be ended.
  std::string Program(const std::string& says, const std::string& then = "exec sleep 100") {
    const std::string path = folder_ / "server";
    std::ofstream(path) << "#!/bin/sh\ncat <<'END' >&2\n" << says << "\nEND\n" << then << "\n";
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  }
  std::string Line(const std::string& msg, const std::string& more = "") const {
    return absl::StrCat(R"({"time":"2026-01-01T00:00:00.5Z","level":"info","msg":")", msg, "\"",
                        more, "}\n");
  }
  std::string Listening(const std::string& orders) const {
    return Line("listening",
                absl::StrCat(R"(,"listen":"127.0.0.1:1","fault_orders":")", orders, "\""));
  }

  ScratchFolder folder_;
};

TEST_F(ChaosServerTest, FollowsTheLog) {
  const std::string program = Program(absl::StrCat(
      "not json\n", Listening(folder_ / "orders"), Line("worker started", ",\"pid\":7"),
      Line("group ready"), Line("worker lost"), Line("worker started", ",\"pid\":8")));
  auto server = ChaosServer::Start(program, "config", absl::Seconds(20));
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ((*server)->address(), "127.0.0.1:1");
  const auto lost = (*server)->Await("worker lost", 0, absl::Seconds(20));
  ASSERT_TRUE(lost.ok());
  EXPECT_EQ(absl::FormatTime("%E3S", lost->time, absl::UTCTimeZone()), "00.500");
  ASSERT_TRUE((*server)->Await("worker started", lost->number, absl::Seconds(20)).ok());
  EXPECT_EQ((*server)->worker_pid(), 8);
  const auto never =
      (*server)->Await("worker lost", lost->number + 1, absl::Milliseconds(30)).status();
  EXPECT_THAT(std::string(never.message()), HasSubstr("did not say 'worker lost' within 30ms"));
  ASSERT_TRUE((*server)->Order("kill step 1").ok());
  EXPECT_EQ(ReadFile(folder_ / "orders"), "kill step 1");
  EXPECT_TRUE((*server)->Withdraw());
  EXPECT_FALSE((*server)->Withdraw());
}

TEST_F(ChaosServerTest, RefusesAConfigurationThatDoesNotAllowChaos) {
  const auto server = ChaosServer::Start(Program(Listening("")), "my.yaml", absl::Seconds(20));
  EXPECT_TRUE(absl::IsFailedPrecondition(server.status()));
  EXPECT_THAT(std::string(server.status().message()), HasSubstr("my.yaml"));
  EXPECT_THAT(std::string(server.status().message()), HasSubstr("'chaos: true'"));
}

TEST_F(ChaosServerTest, SaysWhyAServerEnded) {
  const auto server = ChaosServer::Start(Program("no configuration file 'my.yaml'", "exit 2"),
                                         "my.yaml", absl::Seconds(20));
  EXPECT_THAT(std::string(server.status().message()), HasSubstr("no configuration file 'my.yaml'"));
  const auto none = ChaosServer::Start(folder_ / "nothing", "my.yaml", absl::Seconds(20));
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("can't start"));
}

TEST(ChaosRunTest, KnowsWhichFaultsThereAre) {
  int possible = 0;
  for (const std::string& kind : kFaultKinds) {
    EXPECT_NE(NameOfFault(kind), "");
    for (const std::string& place : kFaultPlaces) possible += FaultIsPossible(kind, place) ? 1 : 0;
  }
  EXPECT_EQ(possible, 7 * 6 - 4);
  EXPECT_FALSE(FaultIsPossible("nan", "encode"));
}

TEST(ChaosRunTest, TheTableTellsWhatIsWrong) {
  ChaosOutcome right{.kind = "kill",
                     .place = "step",
                     .detection = absl::Milliseconds(40),
                     .recovery = absl::Seconds(1),
                     .request = "same bytes",
                     .request_ok = true,
                     .diagnosis = "killed",
                     .named = true};
  ChaosOutcome wrong = right;
  wrong.diagnosis = "hang";
  wrong.named = false;
  EXPECT_EQ(ChaosRow(right), "| kill | step | 0.04 | 1.00 | same bytes | killed |\n");
  EXPECT_THAT(ChaosRow(wrong), HasSubstr("hang (WRONG)"));
  EXPECT_TRUE(right.ok());
  EXPECT_FALSE(wrong.ok());
  EXPECT_THAT(ChaosSum({right, wrong}), HasSubstr("2 faults: 1 named rightly, 2 with"));
}

TEST(ChaosRunTest, TheMatrixHasARowForEachKindThatWasTried) {
  ChaosOutcome outcome{.kind = "oom",
                       .place = "warm-up",
                       .detection = absl::Milliseconds(440),
                       .recovery = absl::Seconds(1),
                       .request = "same bytes",
                       .request_ok = true,
                       .diagnosis = "out of memory",
                       .named = true};
  ChaosOutcome other = outcome;
  other.place = "encode";
  other.request = "ended: GPU_OUT_OF_MEMORY";
  EXPECT_EQ(
      ChaosMatrix({outcome, other}),
      "\n| fault | load | warm-up | text | step | decode | encode | request | diagnose says |\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
      "| oom |  | 0.4 + 1.0 |  |  |  | 0.4 + 1.0 | ended: GPU_OUT_OF_MEMORY; same bytes | "
      "out of memory |\n");
}

TEST(ChaosCommandTest, RefusesFaultsThatItDoesNotKnow) {
  std::ostringstream out;
  std::ostringstream err;
  Console console{out, err};
  Interrupt interrupt;
  const char* argv[] = {"patchflow", "chaos", "--config", "c.yaml", "--kinds", "explode"};
  EXPECT_EQ(RunClient(6, argv, console, interrupt), kExitUsage);
  EXPECT_THAT(err.str(), HasSubstr("explode"));
}

}  // namespace
}  // namespace patchflow
