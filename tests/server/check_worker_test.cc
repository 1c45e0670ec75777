#include "server/check_worker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/server/scratch_folder.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

class CheckWorkerTest : public ::testing::Test {
 protected:
  CheckWorkerTest() {
    group_ = {.name = "g",
              .model = "/m",
              .model_name = "m",
              .device = "cpu",
              .layout = "ulysses=2",
              .workers = {}};
    group_.ranks = 2;
  }
  // What is said to a worker that is this shell script.
  WorkerOpinion Ask(const std::string& script, absl::Duration limit = absl::Seconds(20)) {
    folder_.Write("worker", script);
    std::filesystem::permissions(folder_.path("worker"), std::filesystem::perms::owner_all);
    return AskWorker(folder_.path("worker"), group_, {}, "worker", limit);
  }
  // To one that writes these lines to both of its outputs, in turn.
  WorkerOpinion Answer(const std::vector<std::string>& lines, int status) {
    std::string script = "#!/bin/sh\n";
    for (size_t i = 0; i < lines.size(); ++i) {
      absl::StrAppend(&script, "cat >&", i % 2 + 1, " <<'E'\n", lines[i], "\nE\n");
    }
    return Ask(absl::StrCat(script, "exit ", status, "\n"));
  }
  std::string Command() {
    Ask(absl::StrCat("#!/bin/sh\necho \"$*\" > ", folder_.path("command"), "\n"));
    return folder_.Read("command");
  }

  ScratchFolder folder_;
  GroupConfig group_;
};

TEST_F(CheckWorkerTest, AsksWithTheCommandLineOfTheGroup) {
  group_.warmup = {"64x64", "32x64"};
  EXPECT_THAT(Command(), HasSubstr("--model /m --device cpu --dtype auto --ranks 2 --layout "
                                   "ulysses=2 --warm-up 64x64,32x64 "));
  EXPECT_THAT(Command(), HasSubstr(" --check\n"));
}

TEST_F(CheckWorkerTest, AsksTheLastOfSeveralProcesses) {
  group_.ranks = 6;
  group_.processes = 3;
  group_.first_gpu = 1;
  EXPECT_THAT(Command(), HasSubstr("--ranks 2 --layout ulysses=2 --first-gpu 5 "));
  EXPECT_THAT(Command(), HasSubstr("--group-ranks 6 --check\n"));
}

TEST_F(CheckWorkerTest, ShowsWhatAWorkerWouldDo) {
  const auto opinion = Answer(
      {R"({"msg": "checked", "device": "cpu", "dtype": "float32", "layout": "ulysses=2"})"}, 0);
  EXPECT_EQ(opinion.row.verdict, CheckRow::kGood);
  EXPECT_EQ(opinion.row.text, "takes it: device cpu, dtype float32, layout ulysses=2");
  EXPECT_TRUE(opinion.fits);
}

TEST_F(CheckWorkerTest, GivesTheReasonsOfARefusal) {
  const char devices[] = R"({"msg": "refused", "what": "devices", "why": "no GPUs"})";
  const char model[] = R"({"msg": "refused", "what": "model", "why": "3 heads"})";
  auto opinion = Answer({"noise", devices}, 2);
  EXPECT_EQ(opinion.row.verdict, CheckRow::kBad);
  EXPECT_EQ(opinion.row.text, "no GPUs");
  EXPECT_TRUE(opinion.fits);
  opinion = Answer({devices, model}, 2);
  EXPECT_EQ(opinion.row.text, "no GPUs; 3 heads");
  EXPECT_FALSE(opinion.fits);
  opinion = Answer({"--threads: Value -1 not in range", "Run with --help"}, 2);
  EXPECT_EQ(opinion.row.verdict, CheckRow::kBad);
  EXPECT_EQ(opinion.row.text, "exit status 2: --threads: Value -1 not in range");
  EXPECT_FALSE(opinion.fits);
}

TEST_F(CheckWorkerTest, TellsHowAWorkerEnds) {
  EXPECT_EQ(Ask("#!/bin/sh\nkill -SEGV $$\n").row.text, "ended by signal 11");
  EXPECT_EQ(Answer({}, 127).row.text, "exit status 127");
  EXPECT_EQ(Answer({}, 127).row.verdict, CheckRow::kBad);
  const auto opinion = Ask("no program");
  EXPECT_EQ(opinion.row.verdict, CheckRow::kBad);
  EXPECT_THAT(opinion.row.text, HasSubstr("worker cannot be started: Exec format error"));
}

TEST_F(CheckWorkerTest, DoesNotWaitForever) {
  for (const char* script :
       {"#!/bin/sh\nexec sleep 60\n", "#!/bin/sh\nexec sleep 60 >/dev/null 2>&1\n",
        "#!/bin/sh\nexec yes\n"}) {
    const absl::Time begin = absl::Now();
    const auto opinion = Ask(script, absl::Milliseconds(300));
    EXPECT_LT(absl::Now() - begin, absl::Seconds(20)) << script;
    EXPECT_EQ(opinion.row.verdict, CheckRow::kWarning) << script;
    EXPECT_THAT(opinion.row.text, HasSubstr("has not answered within 300ms")) << script;
    EXPECT_TRUE(opinion.fits);
  }
}

}  // namespace
}  // namespace patchflow
