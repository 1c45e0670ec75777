// How a Supervisor takes what workers say of their faults, and how long it waits for them to be
// ready.
#include "server/supervisor.h"

#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "tests/server/supervised.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

// A worker that somebody else starts again and again.
class RemoteSupervisorTest : public SupervisorTest {
 protected:
  RemoteSupervisorTest() { Supervise(remote_); }
  ~RemoteSupervisorTest() override {
    remote_.Stop();
    supervisor_.reset();  // It refers to remote_.
  }
  bool Is(GroupState state) const {
    return Eventually([&] { return remote_.state() == state; });
  }

  Group remote_{GroupConfig{
      .name = "r", .model = "", .model_name = "shapes", .layout = "", .workers = {"elsewhere:1"}}};
};

TEST_F(RemoteSupervisorTest, ABrokenDeviceTakesItsGroupOutOfServiceUntilItIsResumed) {
  ASSERT_TRUE(Is(GroupState::kServing));
  heart_.FailWithDevice(worker::v1::DEVICE_FAULT_KIND_XID, 79);
  ASSERT_TRUE(Is(GroupState::kFailed));
  EXPECT_THAT(remote_.failure(),
              HasSubstr("a device of the group is broken: 0000:1B:00.0: code 79"));
  EXPECT_EQ(remote_.losses()[LossKind::kSickDevice], 1);
  heart_.failed = false;
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(remote_.state(), GroupState::kFailed) << "it seems well again, on the same device";
  EXPECT_EQ(given_up(), "") << "the server goes on";
  EXPECT_TRUE(remote_.Resume());
  EXPECT_TRUE(Is(GroupState::kServing));
  EXPECT_FALSE(remote_.Resume()) << "there is nothing to resume";
}

TEST_F(RemoteSupervisorTest, ADispatcherWaitsForAGroupThatCanBeResumed) {
  ASSERT_TRUE(Is(GroupState::kServing));
  heart_.FailWithDevice(worker::v1::DEVICE_FAULT_KIND_ECC, 2);
  ASSERT_TRUE(Is(GroupState::kFailed));
  std::atomic<bool> came = false;
  std::thread dispatcher([&] { came = remote_.WaitServing().has_value(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  heart_.failed = false;
  remote_.Resume();
  dispatcher.join();
  EXPECT_TRUE(came);
}

TEST_F(RemoteSupervisorTest, TheSameStickyErrorTwiceTakesItsGroupOutOfService) {
  for (const int error : {700, 719, 719}) {
    ASSERT_TRUE(Is(GroupState::kServing)) << error;
    heart_.FailWithDevice(worker::v1::DEVICE_FAULT_KIND_CUDA_ERROR, error);
    ASSERT_TRUE(Eventually([&] { return remote_.state() != GroupState::kServing; }));
    heart_.failed = false;
  }
  ASSERT_TRUE(Is(GroupState::kFailed));
  EXPECT_THAT(remote_.failure(), HasSubstr("CUDA error 719 to two workers in a row"));
}

TEST_F(RemoteSupervisorTest, AStickyErrorAfterACompletedJobIsTheFirst) {
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(Is(GroupState::kServing));
    remote_.JobCompleted();
    heart_.FailWithDevice(worker::v1::DEVICE_FAULT_KIND_CUDA_ERROR, 700);
    ASSERT_TRUE(Eventually([&] { return remote_.state() != GroupState::kServing; }));
    heart_.failed = false;
  }
  EXPECT_TRUE(Is(GroupState::kServing));
}

TEST_F(RemoteSupervisorTest, AJobThatFailsFirstHidesNoDevice) {
  ASSERT_TRUE(Is(GroupState::kServing));
  remote_.Complain(remote_.WaitServing()->epoch, "its job failed");
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  heart_.FailWithDevice(worker::v1::DEVICE_FAULT_KIND_NVLINK, 220);
  ASSERT_TRUE(Is(GroupState::kFailed));
  EXPECT_THAT(remote_.failure(), HasSubstr("its job failed"));
}

TEST_F(RemoteSupervisorTest, CountsPassedLimitsAndErrorsOfNccl) {
  ASSERT_TRUE(Is(GroupState::kServing));
  worker::v1::WatchResponse detail;
  detail.set_watchdog_phase("decode");
  detail.set_nccl_errors(2);
  heart_.Fail(detail);
  ASSERT_TRUE(Eventually([&] { return remote_.faults().nccl_errors > 0; }));
  heart_.failed = false;
  ASSERT_TRUE(Is(GroupState::kServing));
  const FaultCounts faults = remote_.faults();
  EXPECT_EQ(faults.watchdog_trips.at("decode") * 2, faults.nccl_errors);
}

// Holds a process that is killed on its way out, as a driver that hangs does, for as long as this
// lives. From a process of its own, so that nobody else waits for what it traces.
class HeldExit {
 public:
  explicit HeldExit(pid_t pid) {
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    tracer_ = fork();
    if (tracer_ == 0) {
      const bool held = ptrace(PTRACE_SEIZE, pid, nullptr, PTRACE_O_TRACEEXIT) == 0;
      const char told = held ? 'y' : 'n';
      _exit(write(ready[1], &told, 1) == 1 && held ? pause() : 1);
    }
    char told = 0;
    holds_ = read(ready[0], &told, 1) == 1 && told == 'y';
    close(ready[0]);
    close(ready[1]);
  }
  ~HeldExit() {
    kill(tracer_, SIGKILL);
    waitpid(tracer_, nullptr, 0);
  }
  bool holds() const { return holds_; }

 private:
  pid_t tracer_ = -1;
  bool holds_ = false;
};

TEST_F(SupervisorTest, IsOutOfServiceBeforeALostWorkerHasEndedAndStartsNoneBesideIt) {
  Supervise();
  ASSERT_TRUE(Serves());
  auto held = std::make_unique<HeldExit>(Pids().at(0));
  ASSERT_TRUE(held->holds()) << "may not trace processes here";
  const auto lost = Clock::now();
  heart_.failed = true;
  ASSERT_TRUE(Eventually([&] { return group_.state() == GroupState::kRecovering; }));
  EXPECT_LT(Clock::now() - lost, std::chrono::seconds(2));
  EXPECT_EQ(kill(Pids().at(0), 0), 0) << "it has ended";
  heart_.failed = false;
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(Pids().size(), 1U) << "its devices may not be free yet";
  held = nullptr;
  EXPECT_TRUE(Starts(2));
  EXPECT_TRUE(Serves());
}

TEST_F(SupervisorTest, AWorkerThatDoesNotEndHoldsUpNoStop) {
  Supervise();
  ASSERT_TRUE(Serves());
  HeldExit held(Pids().at(0));
  ASSERT_TRUE(held.holds()) << "may not trace processes here";
  heart_.failed = true;
  ASSERT_TRUE(Eventually([&] { return group_.state() == GroupState::kRecovering; }));
  const auto stopped = Clock::now();
  group_.Stop();
  supervisor_.reset();
  EXPECT_LT(Clock::now() - stopped, std::chrono::seconds(5));
}

TEST_F(RemoteSupervisorTest, AWorkerThatIsBusyWithWhatIsNotOursServesOnceItIsReady) {
  ASSERT_TRUE(Is(GroupState::kServing));
  heart_.busy = true;
  remote_.Complain(remote_.WaitServing()->epoch, "took no job");
  ASSERT_TRUE(Is(GroupState::kRecovering));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(remote_.state(), GroupState::kRecovering);
  heart_.busy = false;
  EXPECT_TRUE(Is(GroupState::kServing));
}

TEST_F(SupervisorTest, FindsAWorkerThatIsStoppedWhileItLoads) {
  heart_.loading = true;
  rules_.heartbeat_timeout = absl::Milliseconds(700);
  Supervise();
  ASSERT_TRUE(Starts(1));
  for (const bool beaten : {true, false}) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const auto stopped = Clock::now();
    kill(Pids().back(), SIGSTOP);
    heart_.beats = false;
    const int losses = group_.losses()[LossKind::kHeartbeat];
    ASSERT_TRUE(Eventually([&] { return group_.losses()[LossKind::kHeartbeat] == losses + 1; }));
    EXPECT_LT(Clock::now() - stopped, std::chrono::seconds(2)) << beaten;
    EXPECT_THAT(group_.failure(), HasSubstr("it is stopped"));
    ASSERT_TRUE(Starts(beaten ? 2 : 3)) << "the second never beats";
  }
}

TEST_F(SupervisorTest, AWorkerThatOnlyLoadsSlowlyMayBeSilentForLonger) {
  heart_.loading = true;
  Supervise();
  ASSERT_TRUE(Starts(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  heart_.beats = false;
  std::this_thread::sleep_for(2 * ToClock(rules_.heartbeat_timeout));
  heart_.beats = true;
  heart_.loading = false;
  ASSERT_TRUE(Serves());
  EXPECT_EQ(group_.failures(), 0);
}

TEST_F(SupervisorTest, LearnsHowLongLoadingTakes) {
  rules_.phase_timeout = absl::Milliseconds(300);  // Far more than ten medians.
  rules_.load_timeout = absl::Minutes(10);
  Program(absl::StrCat("echo \"$@\" >>", folder_.path("commands"), "\nexec sleep 1000"));
  Supervise();
  ASSERT_TRUE(Serves());
  heart_.loading = true;
  kill(Pids().at(0), SIGKILL);
  ASSERT_TRUE(Starts(2));
  const auto began = Clock::now();
  ASSERT_TRUE(Eventually([&] { return group_.losses()[LossKind::kLoadTimeout] == 1; }));
  EXPECT_LT(Clock::now() - began, std::chrono::seconds(5));
  EXPECT_EQ(group_.faults().watchdog_trips.at("load"), 1);
  EXPECT_THAT(group_.failure(), HasSubstr("not ready after 300ms, in load"));
  std::string commands;
  ASSERT_TRUE(Eventually([&] {  // A process that has begun has not said so yet.
    commands = folder_.Read("commands");
    return std::count(commands.begin(), commands.end(), '\n') >= 2;
  })) << commands;
  EXPECT_THAT(commands.substr(0, commands.find('\n')), HasSubstr("--load-timeout 540"));
  EXPECT_THAT(commands.substr(commands.find('\n')), HasSubstr("--load-timeout 1 "));
}

TEST_F(SupervisorTest, WarmingUpHasALimitOfItsOwn) {
  rules_.phase_timeout = absl::Milliseconds(300);
  rules_.load_timeout = absl::Minutes(10);
  Supervise();
  ASSERT_TRUE(Serves());
  heart_.warming = true;
  kill(Pids().at(0), SIGKILL);
  ASSERT_TRUE(Eventually([&] { return group_.losses()[LossKind::kLoadTimeout] == 1; }));
  EXPECT_EQ(group_.faults().watchdog_trips.at("warm_up"), 1);
  heart_.warming = false;
  ASSERT_TRUE(Serves());
}

}  // namespace
}  // namespace patchflow
