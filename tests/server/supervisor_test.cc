#include "server/supervisor.h"

#include "server/log.h"
#include "tests/server/supervised.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

TEST_F(SupervisorTest, StartsAKilledWorkerAgainAtOnce) {
  rules_.back_off = absl::Seconds(60);
  Supervise();
  ASSERT_TRUE(Serves());
  kill(Pids().at(0), SIGKILL);
  const auto killed = Clock::now();
  ASSERT_TRUE(Starts(2)) << "the first time without a pause";
  EXPECT_LT(Clock::now() - killed, std::chrono::seconds(2));
  ASSERT_TRUE(Serves());
  EXPECT_EQ(group_.losses()[LossKind::kProcessEnded], 1);
}

TEST_F(SupervisorTest, FindsAStoppedWorkerByItsHeartbeat) {
  Supervise();
  ASSERT_TRUE(Serves());
  const auto stopped = Clock::now();
  kill(Pids().at(0), SIGSTOP);
  heart_.beats = false;
  ASSERT_TRUE(Eventually([&] { return group_.state() == GroupState::kRecovering; }));
  EXPECT_LT(Clock::now() - stopped, std::chrono::seconds(2));
  EXPECT_EQ(group_.losses()[LossKind::kHeartbeat], 1);
  EXPECT_TRUE(Eventually([&] { return kill(Pids().at(0), 0) != 0; })) << "the old process is gone";
  heart_.beats = true;
  ASSERT_TRUE(Serves());
}

TEST_F(SupervisorTest, GivesUpAfterFiveFailuresInARow) {
  Program("exit 1");
  heart_.beats = false;
  Supervise();
  ASSERT_TRUE(Eventually([&] { return !given_up().empty(); }));
  EXPECT_THAT(given_up(), HasSubstr("5 failures in a row, the last: its process ended with exit "
                                    "status 1"));
  EXPECT_EQ(group_.state(), GroupState::kFailed);
  EXPECT_EQ(Pids().size(), 5U);
}

TEST_F(SupervisorTest, PausesLongerEachTimeBeforeItStartsAgain) {
  Program("exit 1");
  heart_.beats = false;
  rules_.back_off = absl::Milliseconds(100);
  const auto began = Clock::now();
  Supervise();
  ASSERT_TRUE(Eventually([&] { return !given_up().empty(); }));
  EXPECT_GE(Clock::now() - began, std::chrono::milliseconds(100 + 200 + 400));
}

TEST_F(SupervisorTest, CountsFromZeroAfterACompletedJob) {
  Supervise();
  for (size_t i = 0; i < 8; ++i) {
    ASSERT_TRUE(Starts(i + 1));
    ASSERT_TRUE(Serves());
    group_.JobCompleted();
    kill(Pids().at(i), SIGKILL);
    ASSERT_TRUE(
        Eventually([&] { return group_.state() != GroupState::kServing || Starts(i + 2); }));
  }
  EXPECT_EQ(given_up(), "");
}

TEST_F(SupervisorTest, GivesUpAtOnceOnAWorkerThatRefusesItsCommandLine) {
  Program("exit 2");
  heart_.beats = false;
  Supervise();
  ASSERT_TRUE(Eventually([&] { return !given_up().empty(); }));
  EXPECT_EQ(Pids().size(), 1U);
}

TEST_F(SupervisorTest, RefusesAWorkerOfAnotherBatchSize) {
  heart_.batch_size = 8;
  Supervise();
  ASSERT_TRUE(Eventually([&] { return !given_up().empty(); }));
  EXPECT_THAT(given_up(), HasSubstr("its batch size is 8 (--batch-size), the configuration's is 1 "
                                    "(batching, batch_size; 1: off)"));
  EXPECT_FALSE(group_.ever_served());
}

TEST_F(SupervisorTest, ReplacesAWorkerThatFailed) {
  Supervise();
  ASSERT_TRUE(Serves());
  heart_.failed = true;
  ASSERT_TRUE(Eventually([&] { return group_.losses()[LossKind::kFailed] >= 1; }));
  EXPECT_THAT(group_.failure(), HasSubstr("rank 1 threw"));
  heart_.failed = false;
  ASSERT_TRUE(Serves());
}

TEST_F(SupervisorTest, ReplacesAWorkerThatTheDispatcherComplainsOf) {
  Supervise();
  ASSERT_TRUE(Serves());
  group_.Complain(group_.WaitServing()->epoch, "job failed");
  ASSERT_TRUE(Starts(2));
  EXPECT_EQ(group_.losses()[LossKind::kJob], 1);
}

TEST_F(SupervisorTest, ReplacesAWorkerWhoseJobSaysNothing) {
  rules_.stall_timeout = absl::Milliseconds(100);
  Supervise();
  ASSERT_TRUE(Serves());
  group_.SetRunning(group_.WaitServing()->epoch, {{MakeGeneration(TestSpec("a")), [] {}}});
  ASSERT_TRUE(Eventually([&] { return group_.losses()[LossKind::kStalled] == 1; }));
}

TEST_F(SupervisorTest, ReplacesAWorkerThatDoesNotLoadInTime) {
  rules_.load_timeout = absl::Milliseconds(200);
  heart_.loading = true;
  Supervise();
  ASSERT_TRUE(Eventually([&] { return group_.losses()[LossKind::kLoadTimeout] >= 1; }));
  EXPECT_EQ(group_.state(), GroupState::kStarting) << "it never served";
}

// "exit STATUS" of one life after another; the last one for all that follow.
std::string EndsWith(const ScratchFolder& folder, const std::vector<int>& statuses) {
  std::string body = absl::StrCat("n=$(wc -l <", folder.path("pids"), ")\n");
  for (size_t i = 0; i < statuses.size(); ++i) {
    absl::StrAppend(&body, "[ $n -gt ", i + 1, " ] || exit ", statuses[i], "\n");
  }
  return absl::StrCat(body, "exit ", statuses.back());
}

TEST_F(SupervisorTest, ABrokenDeviceTakesItsGroupOutOfServiceForGood) {
  Program("exit 3");
  heart_.beats = false;
  Supervise();
  ASSERT_TRUE(Eventually([&] { return group_.state() == GroupState::kFailed; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(Pids().size(), 1U) << "no other start";
  EXPECT_EQ(given_up(), "") << "the process serves other groups, and is not started again";
  EXPECT_EQ(group_.losses()[LossKind::kSickDevice], 1);
  EXPECT_THAT(group_.failure(), HasSubstr("a device of the group is broken"));
}

TEST_F(SupervisorTest, TheSameStickyErrorTwiceTakesItsGroupOutOfService) {
  Program(EndsWith(folder_, {100, 119, 1, 100, 100}));
  heart_.beats = false;
  rules_.max_failures = 100;
  Supervise();
  ASSERT_TRUE(Eventually([&] { return group_.state() == GroupState::kFailed; }));
  EXPECT_EQ(Pids().size(), 5U) << "other errors in between do not count";
  EXPECT_THAT(group_.failure(), HasSubstr("CUDA error 700 to two workers in a row"));
  EXPECT_EQ(group_.losses()[LossKind::kSickDevice], 1);
}

TEST_F(SupervisorTest, LeavesABlackBoxOfEveryLoss) {
  Program("echo last words >&2\nexec sleep 1000");
  Supervise();
  ASSERT_TRUE(Serves());
  group_.SetRunning(group_.WaitServing()->epoch, {{MakeGeneration(TestSpec("request-7")), [] {}}});
  kill(Pids().at(0), SIGKILL);
  ASSERT_TRUE(Starts(2));
  std::string box;
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path("boxes"))) {
    box = folder_.Read("boxes/" + entry.path().filename().string());
  }
  for (const char* part : {"process_ended", "request-7", "last words", "\"signal\": 9",
                           "WORKER_STATE_READY", "shapes"}) {
    EXPECT_THAT(box, HasSubstr(part));
  }
}

TEST_F(SupervisorTest, TheLogTellsWhatAWorkerRanThatWasLost) {
  Supervise();
  ASSERT_TRUE(Serves());
  group_.SetRunning(group_.WaitServing()->epoch, {{MakeGeneration(TestSpec("request-7")), [] {}},
                                                  {MakeGeneration(TestSpec("request-8")), [] {}}});
  ::testing::internal::CaptureStderr();
  kill(Pids().at(0), SIGKILL);
  ASSERT_TRUE(Starts(2));
  StopLog();
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr(R"("msg":"worker lost","group":")"));
  EXPECT_THAT(log,
              HasSubstr(R"("request_ids":"request-7,request-8","last_request_id":"request-7")"));
}

TEST_F(SupervisorTest, StopsItsWorkerAtTheEnd) {
  Supervise();
  ASSERT_TRUE(Serves());
  const pid_t pid = Pids().at(0);
  supervisor_.reset();
  EXPECT_NE(kill(pid, 0), 0);
}

}  // namespace
}  // namespace patchflow
