#include "server/supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/server/generations.h"
#include "tests/server/scratch_folder.h"
#include "tests/server/scripted_worker.h"

namespace patchflow {
namespace {

using ::testing::HasSubstr;

// What the worker's heartbeats say, whatever its process does.
class Heart {
 public:
  worker::v1::WatchResponse Beat() const {
    worker::v1::WatchResponse beat;
    beat.set_state(failed    ? worker::v1::WORKER_STATE_FAILED
                   : loading ? worker::v1::WORKER_STATE_LOADING
                   : warming ? worker::v1::WORKER_STATE_WARMING
                             : worker::v1::WORKER_STATE_READY);
    if (failed) {
      beat.set_failure("rank 1 threw");
      std::lock_guard<std::mutex> lock(mutex_);
      beat.MergeFrom(detail_);
    }
    return beat;
  }
  // Says FAILED, with what `detail` says of it.
  void Fail(const worker::v1::WatchResponse& detail) {
    std::lock_guard<std::mutex> lock(mutex_);
    detail_ = detail;
    failed = true;
  }
  void FailWithDevice(worker::v1::DeviceFaultKind kind, int code) {
    worker::v1::WatchResponse detail;
    detail.mutable_device_fault()->set_kind(kind);
    detail.mutable_device_fault()->set_code(code);
    detail.mutable_device_fault()->set_text(absl::StrCat("0000:1B:00.0: code ", code));
    Fail(detail);
  }

  std::atomic<bool> beats = true;
  std::atomic<bool> failed = false;
  std::atomic<bool> loading = false;
  std::atomic<bool> warming = false;

 private:
  mutable std::mutex mutex_;
  worker::v1::WatchResponse detail_;
};

class BeatingWorker final : public LoneWorker {
 public:
  explicit BeatingWorker(Heart& heart) : heart_(heart) {}
  absl::StatusOr<worker::v1::DescribeResponse> Describe(absl::Duration) override {
    return ScriptedWorker::Info();
  }
  std::unique_ptr<ExecuteCall> Execute(const worker::v1::ExecuteRequest&) override {
    return nullptr;
  }
  std::unique_ptr<WatchCall> Watch(absl::Duration interval,
                                   std::function<void(const worker::v1::WatchResponse&)> on_beat,
                                   std::function<void(absl::Status)>) override {
    return std::make_unique<Call>(heart_, interval, std::move(on_beat));
  }

 private:
  class Call final : public WatchCall {
   public:
    Call(Heart& heart, absl::Duration interval,
         std::function<void(const worker::v1::WatchResponse&)> on_beat)
        : thread_([this, &heart, interval, on_beat] {
            while (!stop_) {
              if (heart.beats) {
                on_beat(heart.Beat());
              }
              std::this_thread::sleep_for(ToClock(interval));
            }
          }) {}
    ~Call() override {
      stop_ = true;
      thread_.join();
    }

   private:
    std::atomic<bool> stop_ = false;
    std::thread thread_;
  };
  Heart& heart_;
};

class SupervisorTest : public ::testing::Test {
 protected:
  SupervisorTest() {
    rules_.heartbeat_interval = absl::Milliseconds(20);
    rules_.heartbeat_timeout = absl::Milliseconds(300);
    rules_.back_off = absl::Milliseconds(10);
    // The worker program: notes its pid and does what the test wants.
    Program("exec sleep 1000");
  }
  ~SupervisorTest() override {
    group_.Stop();
    supervisor_.reset();
  }

  void Program(const std::string& body) {
    const std::string temporary = folder_.path("worker.new");
    folder_.Write("worker.new",
                  absl::StrCat("#!/bin/sh\necho $$ >>", folder_.path("pids"), "\n", body, "\n"));
    std::filesystem::permissions(temporary, std::filesystem::perms::owner_all);
    std::filesystem::rename(temporary, folder_.path("worker"));
  }
  void Supervise() { Supervise(group_); }
  void Supervise(Group& group) {
    Supervisor::Options options;
    options.supervision = rules_;
    options.connect = [this](const std::string&) {
      return std::make_unique<BeatingWorker>(heart_);
    };
    options.binary = folder_.path("worker");
    options.socket = folder_.path("socket");
    options.black_boxes = &boxes_;
    options.on_given_up = [this](const std::string& why) {
      std::lock_guard<std::mutex> lock(mutex_);
      given_up_ = why;
    };
    supervisor_ = std::make_unique<Supervisor>(group, options);
  }
  std::vector<pid_t> Pids() const {
    std::ifstream file(folder_.path("pids"));
    std::vector<pid_t> pids;
    for (pid_t pid = 0; file >> pid;) {
      pids.push_back(pid);
    }
    return pids;
  }
  bool Serves() const {
    return Eventually([&] { return group_.state() == GroupState::kServing && !Pids().empty(); });
  }
  bool Starts(size_t times) const {
    return Eventually([&] { return Pids().size() >= times; });
  }
  std::string given_up() {
    std::lock_guard<std::mutex> lock(mutex_);
    return given_up_;
  }

  ScratchFolder folder_;
  BlackBoxes boxes_{{.directory = folder_.path("boxes")}};
  Heart heart_;
  Supervision rules_;
  Group group_{
      GroupConfig{.name = "g", .model = "", .model_name = "shapes", .layout = "", .workers = {}}};
  std::mutex mutex_;
  std::string given_up_;
  std::unique_ptr<Supervisor> supervisor_;
};

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
  group_.SetRunning(group_.WaitServing()->epoch, MakeGeneration(TestSpec("a")), [] {});
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

// A worker that somebody else starts again and again.
class RemoteSupervisorTest : public SupervisorTest {
 protected:
  RemoteSupervisorTest() { Supervise(remote_); }
  ~RemoteSupervisorTest() override { remote_.Stop(); }
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
  const std::string commands = folder_.Read("commands");
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

TEST_F(SupervisorTest, LeavesABlackBoxOfEveryLoss) {
  Program("echo last words >&2\nexec sleep 1000");
  Supervise();
  ASSERT_TRUE(Serves());
  group_.SetRunning(group_.WaitServing()->epoch, MakeGeneration(TestSpec("request-7")), [] {});
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

TEST_F(SupervisorTest, StopsItsWorkerAtTheEnd) {
  Supervise();
  ASSERT_TRUE(Serves());
  const pid_t pid = Pids().at(0);
  supervisor_.reset();
  EXPECT_NE(kill(pid, 0), 0);
}

}  // namespace
}  // namespace patchflow
