#include "worker/worker_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <stdexcept>
#include <thread>

#include "tests/worker/served_worker.h"
#include "worker/digest.h"

namespace patchflow {
namespace {

TEST_F(WorkerServiceTest, DescribesItselfWhileItLoads) {
  std::promise<void> go;
  Load([future = go.get_future().share()] {
    future.wait();
    return LoadFakeGroup(2, {});
  });
  const worker::v1::DescribeResponse loading = Describe();
  EXPECT_EQ(loading.state(), worker::v1::WORKER_STATE_LOADING);
  EXPECT_EQ(loading.ranks(), 2);
  EXPECT_EQ(loading.layout(), "serial");
  EXPECT_FALSE(loading.has_model());
  const Outcome early = Execute(Request());
  EXPECT_EQ(early.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonIn(early.status), "STARTING");
  go.set_value();
  AwaitState(worker::v1::WORKER_STATE_READY);
  const worker::v1::DescribeResponse ready = Describe();
  EXPECT_EQ(ready.model().digest(), "digest of the model");
  EXPECT_EQ(ready.plan_digest(), "digest of the plan");
  EXPECT_EQ(ready.model().defaults().width(), 256);
  EXPECT_TRUE(ready.has_load_time());
  EXPECT_EQ(ready.warmup_time().nanos(), 3'000'000);
}

TEST_F(WorkerServiceTest, AJobIsStreamedInOrderAndTheBytesAreWhole) {
  Start({.step = milliseconds(3)});
  AwaitState(worker::v1::WORKER_STATE_READY);
  const Outcome outcome = Execute(Request(4, {0, 3}));
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  std::vector<v1::ImageHeader> headers;
  std::vector<std::string> bytes;
  int done = 0;
  int last_step = 0;
  for (const ExecuteResponse& message : outcome.messages) {
    if (message.has_image_header()) {
      EXPECT_EQ(headers.size(), done);
      headers.push_back(message.image_header());
      bytes.emplace_back();
    } else if (message.has_image_chunk()) {
      EXPECT_EQ(message.image_chunk().image_index(), headers.back().image_index());
      EXPECT_EQ(message.image_chunk().offset(), bytes.back().size());
      bytes.back() += message.image_chunk().data();
    } else if (message.has_image_done()) {
      EXPECT_EQ(message.image_done().image_index(), headers.back().image_index());
      EXPECT_EQ(message.image_done().step_times_size(), 4);
      EXPECT_EQ(message.image_done().peak_memory_bytes(), 101);
      ++done;
    } else if (message.step().image_index() == 3) {
      EXPECT_GE(message.step().steps_done(), last_step);
      last_step = message.step().steps_done();
    }
  }
  EXPECT_EQ(done, 2);
  EXPECT_EQ(last_step, 4);
  ASSERT_EQ(headers.size(), 2);
  EXPECT_EQ(headers[0].seed(), 5);
  EXPECT_EQ(headers[1].seed(), 8);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(bytes[i], std::string(size_t{3} * 512 * 256, static_cast<char>(headers[i].seed())));
    EXPECT_EQ(headers[i].total_bytes(), bytes[i].size());
    EXPECT_EQ(headers[i].sha256(), Sha256(bytes[i]));
  }
  EXPECT_TRUE(outcome.messages.back().has_image_done());
  EXPECT_EQ(Describe().state(), worker::v1::WORKER_STATE_READY);
}

TEST_F(WorkerServiceTest, ASecondJobIsRefusedWhileOneRuns) {
  Start({.step = milliseconds(5)});
  AwaitState(worker::v1::WORKER_STATE_READY);
  auto first = std::async(std::launch::async, [&] { return Execute(Request(100)); });
  AwaitState(worker::v1::WORKER_STATE_BUSY);
  const Outcome second = Execute(Request());
  EXPECT_EQ(second.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ReasonIn(second.status), "WORKER_BUSY");
  EXPECT_TRUE(first.get().status.ok());
}

TEST_F(WorkerServiceTest, JobsFollowEachOtherWithoutBeingRefused) {
  Start({});
  AwaitState(worker::v1::WORKER_STATE_READY);
  for (int i = 0; i < 100; ++i) {
    const Outcome outcome = Execute(Request(1));
    ASSERT_TRUE(outcome.status.ok()) << i << ": " << outcome.status.error_message();
  }
}

TEST_F(WorkerServiceTest, ABadRequestIsRefusedAndTheWorkerStaysReady) {
  Start({});
  AwaitState(worker::v1::WORKER_STATE_READY);
  worker::v1::ExecuteRequest request = Request();
  request.mutable_params()->set_width(513);
  EXPECT_EQ(Execute(request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.mutable_params()->clear_format();
  const Outcome outcome = Execute(request);
  EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonIn(outcome.status), "INVALID_REQUEST");
  EXPECT_TRUE(Execute(Request()).status.ok());
}

TEST_F(WorkerServiceTest, CancellingTheCallStopsTheJobAtAStep) {
  std::atomic<int> last_step = 0;
  Start({.step = milliseconds(5),
         .before_step = [&](const ImageRequest&, int step) { last_step = step; }});
  AwaitState(worker::v1::WORKER_STATE_READY);
  grpc::ClientContext context;
  Bound(context);
  const auto reader = socket_->stub().Execute(&context, Request(2000));
  ExecuteResponse message;
  while (reader->Read(&message) && message.step().steps_done() < 10) {
  }
  const absl::Time cancelled = absl::Now();
  context.TryCancel();
  AwaitState(worker::v1::WORKER_STATE_READY);
  EXPECT_LT(absl::Now() - cancelled, absl::Seconds(1));
  EXPECT_LT(last_step, 500);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Execute(Request()).status.ok());
}

TEST_F(WorkerServiceTest, AReaderThatGoesAwayWithoutReadingLosesNothingForOthers) {
  Start({});
  AwaitState(worker::v1::WORKER_STATE_READY);
  {
    grpc::ClientContext context;
    Bound(context);
    const auto reader = socket_->stub().Execute(&context, Request(1, {0, 1, 2, 3, 4, 5}));
    std::this_thread::sleep_for(milliseconds(200));
    context.TryCancel();
    reader->Finish();
  }
  AwaitState(worker::v1::WORKER_STATE_READY);
  EXPECT_TRUE(Execute(Request()).status.ok());
}

TEST_F(WorkerServiceTest, AThrowingRankFailsTheWorker) {
  Start({.before_step = [](const ImageRequest&, int step) {
    if (step == 2) throw std::runtime_error("a broken rank");
  }});
  AwaitState(worker::v1::WORKER_STATE_READY);
  const Outcome outcome = Execute(Request());
  EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(outcome.status.error_message(), "a broken rank");
  EXPECT_EQ(ReasonIn(outcome.status), "INTERNAL");
  std::future<absl::Status> failed = failed_.get_future();
  ASSERT_EQ(failed.wait_for(std::chrono::seconds(5)), std::future_status::ready);
  EXPECT_EQ(failed.get().message(), "a broken rank");
  EXPECT_EQ(Describe().state(), worker::v1::WORKER_STATE_FAILED);
  EXPECT_EQ(Describe().failure(), "a broken rank");
  EXPECT_EQ(ReasonIn(Execute(Request()).status), "ENGINE_FAILED");
}

TEST_F(WorkerServiceTest, AHangingRankFailsTheWorker) {
  std::promise<void> release;
  Start({.before_step = [future = release.get_future().share()](const ImageRequest&, int step) {
    if (step == 1) future.wait();
  }});
  AwaitState(worker::v1::WORKER_STATE_READY);
  const absl::Time start = absl::Now();
  const Outcome outcome = Execute(Request());
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonIn(outcome.status), "ENGINE_FAILED");
  EXPECT_EQ(Describe().state(), worker::v1::WORKER_STATE_FAILED);
  release.set_value();
  std::this_thread::sleep_for(milliseconds(50));
}

TEST_F(WorkerServiceTest, AModelThatCannotBeLoadedIsToldInDescribe) {
  Load([]() -> absl::StatusOr<LoadedGroup> {
    return absl::InvalidArgumentError("transformer/config.json: no such field");
  });
  AwaitState(worker::v1::WORKER_STATE_FAILED);
  EXPECT_EQ(Describe().failure(), "transformer/config.json: no such field");
}

TEST_F(WorkerServiceTest, WatchBeatsAtOnceAtIntervalsAndAtChanges) {
  Start({.step = milliseconds(30)});
  AwaitState(worker::v1::WORKER_STATE_READY);
  grpc::ClientContext context;
  Bound(context);
  worker::v1::WatchRequest request;
  request.mutable_interval()->set_nanos(100'000'000);
  const auto beats = socket_->stub().Watch(&context, request);
  worker::v1::WatchResponse beat;
  const absl::Time start = absl::Now();
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(beats->Read(&beat));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(250));
  EXPECT_LE(absl::Now() - start, absl::Seconds(2));
  EXPECT_EQ(beat.state(), worker::v1::WORKER_STATE_READY);
  ASSERT_EQ(beat.ranks_size(), 2);
  EXPECT_EQ(beat.ranks(1).rank(), 1);
  EXPECT_EQ(beat.ranks(1).step(), -1);

  auto job = std::async(std::launch::async, [&] { return Execute(Request(20)); });
  bool busy = false;
  int highest = -1;
  while (beats->Read(&beat) && !(busy && beat.state() == worker::v1::WORKER_STATE_READY)) {
    busy = busy || beat.state() == worker::v1::WORKER_STATE_BUSY;
    highest = std::max(highest, beat.ranks(0).step());
  }
  EXPECT_TRUE(job.get().status.ok());
  EXPECT_GT(highest, 3);
  context.TryCancel();
  EXPECT_EQ(beats->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(WorkerServiceTest, TakesAHintWhateverItDoesAndRefusesWhatIsNone) {
  const RanksHints hints = {std::make_shared<TextHints>(), std::make_shared<TextHints>()};
  Load([&] {
    auto loaded = LoadFakeGroup(2, {});
    loaded->text_hints = hints;
    return loaded;
  });
  AwaitState(worker::v1::WORKER_STATE_READY);
  const auto prepare = [&](const std::vector<std::string>& texts) {
    grpc::ClientContext context;
    Bound(context);
    worker::v1::PrepareRequest request;
    for (const std::string& text : texts) request.add_texts(text);
    worker::v1::PrepareResponse response;
    return socket_->stub().Prepare(&context, request, &response);
  };
  EXPECT_TRUE(prepare({"a star", ""}).ok());
  for (const auto& of_rank : hints) {
    EXPECT_THAT(*of_rank->Await({}), testing::ElementsAre("a star", ""));
  }
  EXPECT_EQ(ReasonIn(prepare({"one", "two", "three"})), "INVALID_REQUEST");
  EXPECT_EQ(ReasonIn(prepare({std::string((8 << 10) + 1, 'a')})), "INVALID_REQUEST");
  worker_->Stop(absl::Seconds(5));
  EXPECT_TRUE(prepare({"a circle"}).ok()) << "of no use, but no error";
}

TEST_F(WorkerServiceTest, TooManyWatchersAreRefused) {
  Start({});
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<worker::v1::WatchResponse>>> readers;
  worker::v1::WatchResponse beat;
  for (int i = 0; i < 16; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(socket_->stub().Watch(contexts.back().get(), {}));
    ASSERT_TRUE(readers.back()->Read(&beat));
  }
  grpc::ClientContext context;
  const auto reader = socket_->stub().Watch(&context, {});
  EXPECT_FALSE(reader->Read(&beat));
  EXPECT_EQ(ReasonIn(reader->Finish()), "WORKER_BUSY");
  for (const auto& watching : contexts) watching->TryCancel();
  for (const auto& watching : readers) watching->Finish();
}

TEST_F(WorkerServiceTest, StoppingEndsTheRunningJobAndRefusesOthers) {
  Start({.step = milliseconds(5)});
  AwaitState(worker::v1::WORKER_STATE_READY);
  auto job = std::async(std::launch::async, [&] { return Execute(Request(2000)); });
  AwaitState(worker::v1::WORKER_STATE_BUSY);
  EXPECT_TRUE(worker_->Stop(absl::Seconds(5)));
  EXPECT_EQ(job.get().status.error_code(), grpc::StatusCode::CANCELLED);
  const Outcome refused = Execute(Request());
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonIn(refused.status), "DRAINING");
}

}  // namespace
}  // namespace patchflow
