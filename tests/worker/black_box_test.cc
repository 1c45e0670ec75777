#include "worker/black_box.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "tests/worker/scratch.h"

namespace patchflow {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

class BlackBoxTest : public testing::Test {
 protected:
  std::unique_ptr<BlackBox> Make() { return *BlackBox::Create(path_); }

  // Runs `life` in a process of its own; how that ended, as waitpid tells it.
  template <typename Life>
  int Live(const Life& life) {
    const pid_t pid = fork();
    if (pid == 0) {
      auto* box = Make().release();
      life(*box);
      _exit(0);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return status;
  }

  std::vector<std::string> Lines() const {
    std::ifstream file(path_, std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    text.erase(std::remove(text.begin(), text.end(), '\0'), text.end());
    std::vector<std::string> lines;
    for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      lines.emplace_back(line.substr(0, line.find_last_not_of(' ') + 1));
    }
    return lines;
  }

  const Scratch folder_;
  const std::string path_ = (folder_.path() / "box").string();
};

TEST_F(BlackBoxTest, KeepsWhatWasWrittenBeforeASigkill) {
  const int status = Live([](BlackBox& box) {
    box.Note("rank 1: denoise");
    box.Keep(9, "rank=1 phase=denoise");
    kill(getpid(), SIGKILL);
  });
  ASSERT_EQ(WTERMSIG(status), SIGKILL);
  EXPECT_THAT(Lines(), Contains("- rank=1 phase=denoise"));
  EXPECT_THAT(Lines(), Contains(AllOf(HasSubstr("00000000 "), EndsWith("rank 1: denoise"))));
}

TEST_F(BlackBoxTest, KeepsTheLastEvents) {
  const auto box = Make();
  for (size_t i = 0; i < BlackBox::kEventLines + 3; ++i) box->Note(absl::StrCat("event ", i));
  EXPECT_THAT(Lines(), SizeIs(BlackBox::kEventLines));
  EXPECT_THAT(Lines(), Not(Contains(EndsWith("event 2"))));
  EXPECT_THAT(Lines(), Contains(EndsWith("event 3")));
  EXPECT_THAT(Lines(), Contains(EndsWith(absl::StrCat("event ", BlackBox::kEventLines + 2))));
}

TEST_F(BlackBoxTest, MakesOneLineOfAnyText) {
  const auto box = Make();
  box->Note(absl::StrCat("two\nlines", std::string(1000, 'x')));
  box->Keep(-1, "below");
  box->Keep(static_cast<int>(BlackBox::kKeptLines), "above");
  ASSERT_THAT(Lines(), SizeIs(1));
  EXPECT_THAT(Lines()[0], HasSubstr("two linesxxx"));
  EXPECT_EQ(Lines()[0].size(), BlackBox::kLineBytes - 1);
}

TEST_F(BlackBoxTest, NotesAFatalSignalWithItsStackAndEndsAsIfItHadNot) {
  const int status = Live([](BlackBox& box) {
    box.CatchFaults();
    kill(getpid(), SIGSEGV);
  });
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGSEGV);
  EXPECT_THAT(Lines(), Contains(HasSubstr("fatal signal 11 (SIGSEGV) at address 0x")));
  EXPECT_THAT(Lines(), Contains("stack: where the signal came"));
  EXPECT_THAT(Lines(), Contains(HasSubstr("test_worker_black_box(+0x")));
}

TEST_F(BlackBoxTest, NotesAnUncaughtException) {
  const int status = Live([](BlackBox& box) {
    box.CatchFaults();
    std::thread([] { throw std::runtime_error("nobody catches this"); }).join();
  });
  EXPECT_EQ(WTERMSIG(status), SIGABRT);
  EXPECT_THAT(Lines(),
              Contains(HasSubstr("uncaught exception std::runtime_error: nobody catches this")));
  EXPECT_THAT(Lines(), Contains(HasSubstr("fatal signal 6 (SIGABRT)")));
}

TEST_F(BlackBoxTest, ASnapshotHasTheRanksAndTheStacksOfThreadsThatStandStill) {
  const int status = Live([](BlackBox& box) {
    box.CatchFaults();
    std::atomic<bool> watched = false;
    std::thread([&] {
      box.WatchThread("rank 1");
      watched = true;
      while (true) absl::SleepFor(absl::Hours(1));
    }).detach();
    while (!watched) std::this_thread::yield();
    box.Keep(BlackBox::kFirstRankLine + 1, "rank=1 phase=denoise");
    box.Snapshot("rank 1 hangs");
    box.Keep(BlackBox::kFirstRankLine + 1, "rank=1 phase=ended");
    box.Snapshot("what follows from it");
  });
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_THAT(Lines(), Contains(HasSubstr("fault: rank 1 hangs")));
  EXPECT_THAT(Lines(), Contains(EndsWith("at the fault: rank=1 phase=denoise")));
  EXPECT_THAT(Lines(), Not(Contains(HasSubstr("what follows"))));
  EXPECT_THAT(Lines(), Contains("stack: rank 1"));
  EXPECT_THAT(Lines(), Contains(HasSubstr("nanosleep")));
}

TEST_F(BlackBoxTest, ALifeBeforeIsKeptBesideThisOne) {
  Make()->Note("before");
  Make()->Note("now");
  EXPECT_THAT(Lines(), SizeIs(1));
  std::ifstream last(path_ + ".last");
  const std::string text((std::istreambuf_iterator<char>(last)), std::istreambuf_iterator<char>());
  EXPECT_THAT(text, HasSubstr("before"));
}

TEST_F(BlackBoxTest, SaysWhereItCannotBeWritten) {
  const absl::Status status = BlackBox::Create("/nowhere/box").status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/box"));
}

}  // namespace
}  // namespace patchflow
