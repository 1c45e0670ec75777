#include "worker/watch_call.h"

#include <gmock/gmock.h>

#include <future>
#include <thread>

#include "absl/time/clock.h"
#include "tests/worker/fake_group.h"
#include "tests/worker/served_worker.h"
#include "worker/log.h"
#include "worker/watchdog_phase.h"

namespace patchflow {
namespace {

using worker::v1::WatchResponse;

TEST(WatchersTest, AreCountedUpToALimit) {
  Watchers watchers;
  EXPECT_TRUE(watchers.Enter(2));
  EXPECT_TRUE(watchers.Enter(2));
  EXPECT_FALSE(watchers.Enter(2));
  watchers.Tell();
  EXPECT_FALSE(watchers.Enter(2)) << "one that was told is still there";
  watchers.Leave(true);
  EXPECT_TRUE(watchers.Enter(2));
}

TEST(WatchersTest, AreWaitedForUntilEachIsToldOrGone) {
  Watchers watchers;
  EXPECT_TRUE(watchers.AwaitTold(absl::ZeroDuration())) << "nobody watches";
  watchers.Enter(8);
  watchers.Enter(8);
  EXPECT_FALSE(watchers.AwaitTold(absl::Milliseconds(20)));
  watchers.Tell();
  EXPECT_FALSE(watchers.AwaitTold(absl::Milliseconds(20)));
  std::thread leaves([&] {
    absl::SleepFor(absl::Milliseconds(20));
    watchers.Leave(false);
  });
  EXPECT_TRUE(watchers.AwaitTold(absl::Seconds(20)));
  leaves.join();
}

// A worker of one fake rank behind a unix socket.
class WatchCallTest : public testing::Test {
 protected:
  void Start(WorkerOptions options) {
    options.layout = "serial";
    options.process_start = absl::Now();
    options.on_failed = [](const absl::Status&) {};
    worker_ = std::make_unique<Worker>(std::move(options));
    socket_ = std::make_unique<Socket>(*worker_);
    ASSERT_TRUE(socket_->listens());
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  }
  void TearDown() override {
    if (socket_ != nullptr) socket_->Shutdown(std::chrono::milliseconds(0));
    SetLogLevel("info");
  }
  // The first beat of this state.
  WatchResponse Await(worker::v1::WorkerState state) {
    WatchResponse beat;
    while (beats_->Read(&beat) && beat.state() != state) {
    }
    EXPECT_EQ(beat.state(), state);
    return beat;
  }
  void Watch(const std::string& log_level = "") {
    worker::v1::WatchRequest request;
    request.set_log_level(log_level);
    beats_ = socket_->stub().Watch(&context_, request);
  }
  static WorkerOptions Loads() {
    WorkerOptions options;
    options.load = [] { return LoadFakeGroup(1, {}); };
    return options;
  }

  std::unique_ptr<Worker> worker_;
  std::unique_ptr<Socket> socket_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<WatchResponse>> beats_;
};

TEST_F(WatchCallTest, TellsOfADeviceBeforeTheWorkerEnds) {
  WorkerOptions options = Loads();
  options.find_device_fault = [] {
    return DeviceFault{DeviceFaultKind::kXid, 79, "0000:1B:00.0", "0000:1B:00.0: Xid 79"};
  };
  options.nccl_errors = [] { return 3; };
  Start(std::move(options));
  Watch();
  EXPECT_FALSE(Await(worker::v1::WORKER_STATE_READY).has_device_fault());
  EXPECT_FALSE(socket_->service().AwaitTold(absl::Milliseconds(20))) << "it has not failed";
  worker_->Fail(absl::UnavailableError("0000:1B:00.0: Xid 79"));
  EXPECT_TRUE(socket_->service().AwaitTold(absl::Seconds(20)));
  const WatchResponse beat = Await(worker::v1::WORKER_STATE_FAILED);
  EXPECT_EQ(beat.device_fault().kind(), worker::v1::DEVICE_FAULT_KIND_XID);
  EXPECT_EQ(beat.device_fault().code(), 79);
  EXPECT_EQ(beat.device_fault().device(), "0000:1B:00.0");
  EXPECT_EQ(beat.device_fault().text(), "0000:1B:00.0: Xid 79");
  EXPECT_EQ(beat.nccl_errors(), 3);
  grpc::ClientContext context;
  worker::v1::DescribeResponse described;
  ASSERT_TRUE(socket_->stub().Describe(&context, {}, &described).ok());
  EXPECT_EQ(described.device_fault().code(), 79);
  EXPECT_EQ(described.build().torch().substr(0, 2), "2.");
  EXPECT_FALSE(described.build().build_id().empty());
}

TEST_F(WatchCallTest, TellsWhoseLimitWasPassed) {
  Start(Loads());
  Watch();
  Await(worker::v1::WORKER_STATE_READY);
  worker_->Fail(WithWatchdogPhase(absl::UnavailableError("no progress"), "decode"));
  const WatchResponse beat = Await(worker::v1::WORKER_STATE_FAILED);
  EXPECT_EQ(beat.watchdog_phase(), "decode");
  EXPECT_FALSE(beat.has_device_fault());
}

TEST_F(WatchCallTest, TellsOfWarmUp) {
  std::promise<void> warm;
  std::function<void()> warms_up;
  WorkerOptions options;
  options.before_load = [&warms_up](std::function<void()> hook) { warms_up = std::move(hook); };
  options.load = [&warms_up, future = warm.get_future().share()] {
    warms_up();
    future.wait();
    return LoadFakeGroup(1, {});
  };
  Start(std::move(options));
  Watch();
  Await(worker::v1::WORKER_STATE_WARMING);
  warm.set_value();
  Await(worker::v1::WORKER_STATE_READY);
}

TEST_F(WatchCallTest, SetsTheLevelOfLog) {
  Start(Loads());
  Watch("debug");
  Await(worker::v1::WORKER_STATE_READY);
  EXPECT_EQ(LogLevelName(), "debug");
  for (const char* same : {"", "loud"}) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    worker::v1::WatchRequest request;
    request.set_log_level(same);
    const auto beats = socket_->stub().Watch(&context, request);
    WatchResponse beat;
    ASSERT_TRUE(beats->Read(&beat));
    EXPECT_EQ(LogLevelName(), "debug") << "'" << same << "' is none";
    context.TryCancel();
  }
}

}  // namespace
}  // namespace patchflow
