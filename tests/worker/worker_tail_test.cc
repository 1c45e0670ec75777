// The last image of one job is encoded and sent while the ranks make the next one's.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <future>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "tests/worker/served_worker.h"

namespace patchflow {
namespace {

// A door that stays closed until it is opened.
class Gate {
 public:
  void Pass() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return open_; });
  }
  void Open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

// A test that fails leaves no thread behind the gate.
class WorkerTailTest : public WorkerServiceTest {
 protected:
  void TearDown() override {
    gate_.Open();
    WorkerServiceTest::TearDown();
  }

  Gate gate_;
};

TEST_F(WorkerTailTest, AJobStartsWhileTheLastImageOfTheOneBeforeIsEncoded) {
  std::atomic<int> encodings = 0;
  StartEncoding({}, [&] {
    ++encodings;
    gate_.Pass();
  });
  AwaitState(worker::v1::WORKER_STATE_READY);
  const auto first = Begin(RequestOfSeed(1));
  ASSERT_TRUE(first->ReadUntilRanksFree());
  EXPECT_EQ(first->bytes, "") << "its image is still encoded";
  EXPECT_EQ(Describe().state(), worker::v1::WORKER_STATE_READY);
  const auto second = Begin(RequestOfSeed(2));
  ASSERT_TRUE(second->ReadUntil([](const ExecuteResponse& message) {
    return message.has_image_trace();
  })) << "its ranks have made it";
  // So much is left of one job at most: the second keeps the worker until the first is sent.
  EXPECT_EQ(Describe().state(), worker::v1::WORKER_STATE_BUSY);
  EXPECT_EQ(ReasonIn(Execute(RequestOfSeed(3)).status), "WORKER_BUSY");
  EXPECT_LE(encodings, 1);
  gate_.Open();
  EXPECT_TRUE(second->ReadUntilRanksFree());
  EXPECT_TRUE(first->ReadToEnd().ok());
  EXPECT_EQ(first->bytes, BytesOf(1));
  const auto third = Begin(RequestOfSeed(3));
  EXPECT_TRUE(second->ReadToEnd().ok());
  EXPECT_EQ(second->bytes, BytesOf(2));
  EXPECT_TRUE(third->ReadToEnd().ok());
  EXPECT_EQ(third->bytes, BytesOf(3));
}

TEST_F(WorkerTailTest, TheRanksAreFreeOnceAndAfterTheLastImageThatTheyMade) {
  Start({});
  AwaitState(worker::v1::WORKER_STATE_READY);
  const Outcome outcome = Execute(Request(4, {0, 1, 2}));
  ASSERT_TRUE(outcome.status.ok());
  int traces = 0;
  int free = 0;
  for (const ExecuteResponse& message : outcome.messages) {
    traces += message.has_image_trace() ? 1 : 0;
    free += message.has_ranks_free() ? 1 : 0;
    EXPECT_TRUE(!message.has_ranks_free() || traces == 3);
  }
  EXPECT_EQ(free, 1);
}

TEST_F(WorkerTailTest, ThatTheRanksAreFreeIsToldBeforeTheLastImage) {
  Start({});
  AwaitState(worker::v1::WORKER_STATE_READY);
  for (int i = 0; i < 50; ++i) {
    const Outcome outcome = Execute(Request(1));
    ASSERT_TRUE(outcome.status.ok());
    EXPECT_TRUE(outcome.messages.back().has_image_done()) << "it waits behind no image";
  }
}

TEST_F(WorkerTailTest, ALastImageThatCannotBeEncodedFailsTheWorkerBesideTheNextJob) {
  std::atomic<int> encodings = 0;
  StartEncoding({.step = milliseconds(5)}, [&] {
    if (encodings++ == 0) {
      gate_.Pass();
      throw std::runtime_error("a broken encoder");
    }
  });
  AwaitState(worker::v1::WORKER_STATE_READY);
  const auto first = Begin(RequestOfSeed(1));
  ASSERT_TRUE(first->ReadUntilRanksFree());
  const auto second = Begin(RequestOfSeed(2, 100));
  ASSERT_TRUE(second->ReadUntil(
      [](const ExecuteResponse& message) { return message.step().steps_done() > 2; }));
  gate_.Open();
  const grpc::Status status = first->ReadToEnd();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(status.error_message(), "a broken encoder");
  std::future<absl::Status> failed = failed_.get_future();
  ASSERT_EQ(failed.wait_for(std::chrono::seconds(5)), std::future_status::ready);
  EXPECT_EQ(failed.get().message(), "a broken encoder");
  EXPECT_EQ(Describe().state(), worker::v1::WORKER_STATE_FAILED);
  EXPECT_EQ(ReasonIn(Execute(RequestOfSeed(3)).status), "ENGINE_FAILED");
  EXPECT_TRUE(second->ReadToEnd().ok()) << "this process goes on; a worker's ends";
}

TEST_F(WorkerTailTest, AnEncodingThatHangsFailsTheWorkerBesideTheNextJob) {
  std::atomic<bool> go = false;
  std::atomic<bool> gone = false;
  Load([&] {
    auto loaded = LoadFakeGroup(2, {});
    loaded->encoder = std::make_shared<Encoder>(
        EncoderOptions{.first_run_timeout = absl::Milliseconds(200), .before = [&] {
                         while (!go) std::this_thread::sleep_for(milliseconds(1));
                         gone = true;
                       }});
    return loaded;
  });
  AwaitState(worker::v1::WORKER_STATE_READY);
  const auto first = Begin(RequestOfSeed(1));
  ASSERT_TRUE(first->ReadUntilRanksFree());
  const grpc::Status status = first->ReadToEnd();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonIn(status), "ENGINE_FAILED");
  EXPECT_EQ(Describe().state(), worker::v1::WORKER_STATE_FAILED);
  go = true;
  while (!gone) std::this_thread::sleep_for(milliseconds(1));
}

TEST_F(WorkerTailTest, ACallThatIsCancelledWhenTheRanksAreFreeDisturbsNobody) {
  StartEncoding({}, [&] { gate_.Pass(); });
  AwaitState(worker::v1::WORKER_STATE_READY);
  const auto first = Begin(RequestOfSeed(1));
  ASSERT_TRUE(first->ReadUntilRanksFree());
  const auto second = Begin(RequestOfSeed(2));
  first->context.TryCancel();
  EXPECT_EQ(first->ReadToEnd().error_code(), grpc::StatusCode::CANCELLED);
  gate_.Open();
  EXPECT_TRUE(second->ReadToEnd().ok());
  EXPECT_EQ(second->bytes, BytesOf(2));
  EXPECT_EQ(Describe().state(), worker::v1::WORKER_STATE_READY);
}

TEST_F(WorkerTailTest, StoppingWaitsForTheLastImage) {
  StartEncoding({}, [&] { gate_.Pass(); });
  AwaitState(worker::v1::WORKER_STATE_READY);
  const auto first = Begin(RequestOfSeed(1));
  ASSERT_TRUE(first->ReadUntilRanksFree());
  auto stopped = std::async(std::launch::async, [&] { return worker_->Stop(absl::Seconds(10)); });
  EXPECT_EQ(stopped.wait_for(milliseconds(100)), std::future_status::timeout);
  gate_.Open();
  EXPECT_TRUE(first->ReadToEnd().ok());
  EXPECT_EQ(first->bytes, BytesOf(1));
  EXPECT_TRUE(stopped.get());
}

}  // namespace
}  // namespace patchflow
