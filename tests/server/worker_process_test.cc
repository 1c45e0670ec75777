#include "server/worker_process.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "server/device_judge.h"
#include "server/tail.h"
#include "tests/server/generations.h"

namespace patchflow {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::unique_ptr<WorkerProcess> Shell(const std::string& script) {
  return *WorkerProcess::Start({"/bin/sh", "-c", script});
}

ProcessEnd EndOf(WorkerProcess& process) {
  EXPECT_TRUE(Eventually([&] { return process.Poll().has_value(); }));
  return *process.Poll();
}

TEST(WorkerProcessTest, KeepsTheLastWords) {
  auto process = Shell("echo to stdout; echo to stderr >&2; printf 'and no end'; exit 7");
  const ProcessEnd end = EndOf(*process);
  EXPECT_EQ(end.status, 7);
  EXPECT_EQ(end.text, "exit status 7");
  EXPECT_GT(end.memory_peak_bytes, 100 << 10);
  EXPECT_THAT(process->LastLines(), ElementsAre("to stdout", "to stderr", "and no end"));
}

TEST(WorkerProcessTest, KeepsNoMoreThanTheLastWords) {
  auto process = Shell("i=0; while [ $i -lt 9000 ]; do echo line $i; i=$((i+1)); done");
  EndOf(*process);
  const auto lines = process->LastLines();
  EXPECT_EQ(lines.back(), "line 8999");
  EXPECT_LT(lines.size(), Tail::kMaxBytes / 8);
}

TEST(WorkerProcessTest, TellsAStoppedProcessFromOneThatRuns) {
  auto process = Shell("sleep 100");
  EXPECT_TRUE(Eventually([&] { return process->State().rfind("S", 0) == 0; }));
  process->Signal(SIGSTOP);
  EXPECT_TRUE(Eventually([&] { return process->State() == "T (stopped)"; }));
  process->Signal(SIGKILL);
  EXPECT_EQ(EndOf(*process).signal, SIGKILL);
  EXPECT_EQ(process->State(), "");
}

TEST(WorkerProcessTest, KnowsWhatAWorkersExitStatusMeans) {
  EXPECT_TRUE(EndOf(*Shell("exit 2")).refused);
  EXPECT_TRUE(EndOf(*Shell("exit 3")).sick_device());
  EXPECT_EQ(EndOf(*Shell("exit 119")).sticky_error(), 719);
  const ProcessEnd failed = EndOf(*Shell("exit 1"));
  EXPECT_FALSE(failed.refused || failed.sick_device() || failed.sticky_error() != 0);
  EXPECT_EQ(EndOf(*Shell("kill -9 $$")).sticky_error(), 0);
}

TEST(WorkerProcessTest, TheCommandLineHasEveryWatchdog) {
  GroupConfig group;
  group.model = "/models/a";
  Supervision rules;
  rules.load_timeout = absl::Seconds(100);
  rules.first_run_timeout = absl::Seconds(7);
  rules.phase_timeout = absl::Seconds(3);
  const auto words = WorkerCommand("worker", group, "/run/0.1", rules);
  std::string line;
  for (const std::string& word : words) line += word + " ";
  for (const char* part : {"--load-timeout 90 ", "--first-run-timeout 7 ", "--phase-timeout 3 ",
                           "--black-box /run/0.1.recorder "}) {
    EXPECT_THAT(line, ::testing::HasSubstr(part));
  }
  EXPECT_THAT(words, ::testing::Not(Contains(StartsWith("--fault"))));
  EXPECT_THAT(WorkerCommand("worker", group, "/run/0.1", rules, "/run/orders"),
              Contains("--fault-orders"));
}

TEST(WorkerProcessTest, TheCommandLineHasTheSizesToWarmUpWith) {
  GroupConfig group;
  EXPECT_THAT(WorkerCommand("worker", group, "/run/0.1", {}),
              ::testing::Not(Contains("--warm-up")));
  group.warmup = {"1024x1024", "1024x512"};
  const auto words = WorkerCommand("worker", group, "/run/0.1", {});
  const auto flag = std::find(words.begin(), words.end(), "--warm-up");
  ASSERT_LT(flag, words.end() - 1);
  EXPECT_EQ(*(flag + 1), "1024x1024,1024x512");
}

TEST(WorkerProcessTest, TheCommandLineHasTheFirstGpuIfItIsAnother) {
  GroupConfig group;
  EXPECT_THAT(WorkerCommand("worker", group, "/run/0.1", {}),
              ::testing::Not(Contains("--first-gpu")));
  group.first_gpu = 3;
  const auto words = WorkerCommand("worker", group, "/run/0.1", {});
  const auto flag = std::find(words.begin(), words.end(), "--first-gpu");
  ASSERT_LT(flag, words.end() - 1);
  EXPECT_EQ(*(flag + 1), "3");
}

TEST(WorkerProcessTest, TheCommandLineHasTheBatchSizeOfABatchingGroup) {
  GroupConfig group;
  EXPECT_THAT(WorkerCommand("worker", group, "/run/0.1", {}),
              ::testing::Not(Contains("--batch-size")));
  group.batch_size = 4;
  const auto words = WorkerCommand("worker", group, "/run/0.1", {});
  const auto flag = std::find(words.begin(), words.end(), "--batch-size");
  ASSERT_LT(flag, words.end() - 1);
  EXPECT_EQ(*(flag + 1), "4");
}

TEST(TailTest, DropsWhatNobodyReadsAndGoesOn) {
  int from[2];
  int to[2];
  ASSERT_EQ(pipe2(from, O_CLOEXEC), 0);
  ASSERT_EQ(pipe2(to, O_CLOEXEC | O_NONBLOCK), 0);
  while (write(to[1], "x", 1) == 1) {
  }
  Tail tail(from[0], to[1]);
  const std::string line = "said to a log that is full\n";
  ASSERT_EQ(write(from[1], line.data(), line.size()), static_cast<ssize_t>(line.size()));
  close(from[1]);
  tail.Finish();
  EXPECT_THAT(tail.Lines(), ElementsAre("said to a log that is full"));
  close(to[0]);
  close(to[1]);
}

ProcessEnd WithStatus(int status) {
  ProcessEnd end;
  end.status = status;
  return end;
}

constexpr std::nullopt_t kNothing = std::nullopt;  // Was told of a device.

TEST(DeviceJudgeTest, BelievesAWorkerThatADeviceIsBroken) {
  EXPECT_NE(DeviceJudge().Judge(WithStatus(3), kNothing, 0), "");
  EXPECT_EQ(DeviceJudge().Judge(WithStatus(1), kNothing, 0), "");
  EXPECT_EQ(DeviceJudge().Judge(std::nullopt, kNothing, 4), "");
}

TEST(DeviceJudgeTest, TakesTheSameStickyErrorAgainAndAgainWhateverWasCompleted) {
  DeviceJudge judge;
  auto now = Clock::now();
  for (int i = 1; i < DeviceJudge::kTimes; ++i) {
    EXPECT_EQ(judge.Judge(WithStatus(100), kNothing, 0, now), "") << i;
    EXPECT_EQ(judge.Judge(WithStatus(1), kNothing, 0, now), "") << "no error of a device";
    now += std::chrono::minutes(10);
  }
  EXPECT_THAT(judge.Judge(WithStatus(100), kNothing, 0, now), HasSubstr("to 5 workers within 1h"));
}

TEST(DeviceJudgeTest, ForgetsStickyErrorsOfLongAgo) {
  DeviceJudge judge;
  auto now = Clock::now();
  for (int i = 0; i < 3 * DeviceJudge::kTimes; ++i) {
    EXPECT_EQ(judge.Judge(WithStatus(100), kNothing, 0, now), "") << i;
    now += std::chrono::minutes(20);
  }
}

TEST(DeviceJudgeTest, TakesTheSameStickyErrorTwiceInARow) {
  DeviceJudge judge;
  EXPECT_EQ(judge.Judge(WithStatus(100), kNothing, 0), "");
  EXPECT_EQ(judge.Judge(WithStatus(100), kNothing, 0), "") << "a job was completed in between";
  EXPECT_EQ(judge.Judge(WithStatus(110), kNothing, 1), "") << "another error";
  EXPECT_EQ(judge.Judge(std::nullopt, kNothing, 2), "");
  EXPECT_EQ(judge.Judge(WithStatus(110), kNothing, 3), "") << "not in a row";
  EXPECT_NE(judge.Judge(WithStatus(110), kNothing, 4), "");
}

std::optional<worker::v1::DeviceFault> Told(worker::v1::DeviceFaultKind kind, int code) {
  worker::v1::DeviceFault fault;
  fault.set_kind(kind);
  fault.set_code(code);
  fault.set_text("0000:1B:00.0 says so");
  return fault;
}

TEST(DeviceJudgeTest, BelievesWhatAWorkerToldOfItsDeviceWithoutAnExitStatus) {
  for (const auto kind : {worker::v1::DEVICE_FAULT_KIND_XID, worker::v1::DEVICE_FAULT_KIND_ECC,
                          worker::v1::DEVICE_FAULT_KIND_NVLINK}) {
    EXPECT_EQ(DeviceJudge().Judge(std::nullopt, Told(kind, 1), 0),
              "a device of the group is broken: 0000:1B:00.0 says so");
  }
}

TEST(DeviceJudgeTest, AStickyErrorCountsHoweverItIsTold) {
  const auto told = Told(worker::v1::DEVICE_FAULT_KIND_CUDA_ERROR, 719);
  DeviceJudge judge;
  EXPECT_EQ(judge.Judge(std::nullopt, told, 0), "");
  EXPECT_EQ(judge.Judge(std::nullopt, told, 0), "") << "a job was completed in between";
  EXPECT_NE(judge.Judge(WithStatus(119), kNothing, 1), "");
}

}  // namespace
}  // namespace patchflow
