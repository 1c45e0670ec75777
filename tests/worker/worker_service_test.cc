#include "worker/worker_service.h"

#include <gmock/gmock.h>
#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <future>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "absl/time/clock.h"
#include "tests/worker/fake_group.h"
#include "tests/worker/scratch.h"
#include "worker/digest.h"
#include "worker/encoder.h"

namespace patchflow {
namespace {

using std::chrono::milliseconds;
using worker::v1::ExecuteResponse;

std::string ReasonIn(const grpc::Status& status) {
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  if (!details.ParseFromString(status.error_details()) || details.details_size() != 1 ||
      !details.details(0).UnpackTo(&info)) {
    return "no ErrorInfo";
  }
  EXPECT_EQ(info.domain(), "patchflow");
  return info.reason();
}

worker::v1::ExecuteRequest Request(int steps = 4, const std::vector<int>& indices = {0}) {
  worker::v1::ExecuteRequest request;
  request.set_request_id("r");
  request.set_prompt("a red circle");
  v1::EffectiveParams& params = *request.mutable_params();
  params.set_width(512);
  params.set_height(256);
  params.set_steps(steps);
  params.set_guidance_scale(4.5F);
  params.set_seed(5);
  params.set_scheduler("ddim");
  params.set_format(v1::IMAGE_FORMAT_RAW_RGB8);
  for (const int index : indices) request.add_image_indices(index);
  return request;
}

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

// A worker of two fake ranks behind a unix socket.
class WorkerServiceTest : public ::testing::Test {
 protected:
  void Start(const FakeEngineOptions& engine) {
    Load([engine] { return LoadFakeGroup(2, engine, absl::Milliseconds(500)); });
  }

  // `before_encode`: called before each image is encoded, on the thread that does it.
  void StartEncoding(const FakeEngineOptions& engine, std::function<void()> before_encode) {
    Load([engine, before_encode] {
      auto loaded = LoadFakeGroup(2, engine);
      loaded->encoder = std::make_shared<Encoder>(EncoderOptions{.before = before_encode});
      return loaded;
    });
  }

  void Load(std::function<absl::StatusOr<LoadedGroup>()> load) {
    WorkerOptions options;
    options.layout = "serial";
    options.ranks = 2;
    options.process_start = absl::Now();
    options.load = std::move(load);
    options.on_failed = [this](const absl::Status& failure) { failed_.set_value(failure); };
    worker_ = std::make_unique<Worker>(std::move(options));
    service_ = std::make_unique<WorkerService>(*worker_);
    const std::string address = "unix:" + (scratch_.path() / "socket").string();
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials());
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    stub_ = worker::v1::WorkerService::NewStub(
        grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  }

  void TearDown() override {
    if (server_ == nullptr) return;
    worker_->Stop(absl::Seconds(5));
    server_->Shutdown(std::chrono::system_clock::now() + milliseconds(200));
  }

  static void Bound(grpc::ClientContext& context) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  }

  worker::v1::DescribeResponse Describe() {
    grpc::ClientContext context;
    Bound(context);
    worker::v1::DescribeResponse response;
    const grpc::Status status = stub_->Describe(&context, {}, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  void AwaitState(worker::v1::WorkerState state) {
    for (int i = 0; i < 5000 && Describe().state() != state; ++i) {
      std::this_thread::sleep_for(milliseconds(1));
    }
    ASSERT_EQ(Describe().state(), state);
  }

  struct Outcome {
    std::vector<ExecuteResponse> messages;
    grpc::Status status;
  };
  Outcome Execute(const worker::v1::ExecuteRequest& request) {
    grpc::ClientContext context;
    Bound(context);
    Outcome outcome;
    const auto reader = stub_->Execute(&context, request);
    for (ExecuteResponse message; reader->Read(&message);) outcome.messages.push_back(message);
    outcome.status = reader->Finish();
    return outcome;
  }

  // A call that is read piece by piece.
  struct Call {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<ExecuteResponse>> reader;
    std::string bytes;

    // False at the end of the call.
    bool ReadUntil(const std::function<bool(const ExecuteResponse&)>& found) {
      for (ExecuteResponse message; reader->Read(&message);) {
        bytes += message.image_chunk().data();
        if (found(message)) return true;
      }
      return false;
    }
    bool ReadUntilRanksFree() {
      return ReadUntil([](const ExecuteResponse& message) { return message.has_ranks_free(); });
    }
    grpc::Status ReadToEnd() {
      ReadUntil([](const ExecuteResponse&) { return false; });
      return reader->Finish();
    }
  };
  std::unique_ptr<Call> Begin(const worker::v1::ExecuteRequest& request) {
    auto call = std::make_unique<Call>();
    Bound(call->context);
    call->reader = stub_->Execute(&call->context, request);
    return call;
  }
  static worker::v1::ExecuteRequest RequestOfSeed(uint64_t seed, int steps = 4) {
    worker::v1::ExecuteRequest request = Request(steps);
    request.mutable_params()->set_seed(seed);
    return request;
  }
  static std::string BytesOf(uint64_t seed) {
    return std::string(size_t{3} * 512 * 256, static_cast<char>(seed));
  }

  Scratch scratch_;
  std::promise<absl::Status> failed_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<WorkerService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<worker::v1::WorkerService::Stub> stub_;
};

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
  const auto reader = stub_->Execute(&context, Request(2000));
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
    const auto reader = stub_->Execute(&context, Request(1, {0, 1, 2, 3, 4, 5}));
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
  const auto beats = stub_->Watch(&context, request);
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

TEST_F(WorkerServiceTest, AJobStartsWhileTheLastImageOfTheOneBeforeIsEncoded) {
  Gate gate;
  std::atomic<int> encodings = 0;
  StartEncoding({}, [&] {
    ++encodings;
    gate.Pass();
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
  gate.Open();
  EXPECT_TRUE(second->ReadUntilRanksFree());
  EXPECT_TRUE(first->ReadToEnd().ok());
  EXPECT_EQ(first->bytes, BytesOf(1));
  const auto third = Begin(RequestOfSeed(3));
  EXPECT_TRUE(second->ReadToEnd().ok());
  EXPECT_EQ(second->bytes, BytesOf(2));
  EXPECT_TRUE(third->ReadToEnd().ok());
  EXPECT_EQ(third->bytes, BytesOf(3));
}

TEST_F(WorkerServiceTest, TheRanksAreFreeOnceAndAfterTheLastImageThatTheyMade) {
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

TEST_F(WorkerServiceTest, ALastImageThatCannotBeEncodedFailsTheWorkerBesideTheNextJob) {
  Gate gate;
  std::atomic<int> encodings = 0;
  StartEncoding({.step = milliseconds(5)}, [&] {
    if (encodings++ == 0) {
      gate.Pass();
      throw std::runtime_error("a broken encoder");
    }
  });
  AwaitState(worker::v1::WORKER_STATE_READY);
  const auto first = Begin(RequestOfSeed(1));
  ASSERT_TRUE(first->ReadUntilRanksFree());
  const auto second = Begin(RequestOfSeed(2, 100));
  ASSERT_TRUE(second->ReadUntil(
      [](const ExecuteResponse& message) { return message.step().steps_done() > 2; }));
  gate.Open();
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

TEST_F(WorkerServiceTest, AnEncodingThatHangsFailsTheWorkerBesideTheNextJob) {
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

TEST_F(WorkerServiceTest, ACallThatIsCancelledWhenTheRanksAreFreeDisturbsNobody) {
  Gate gate;
  StartEncoding({}, [&] { gate.Pass(); });
  AwaitState(worker::v1::WORKER_STATE_READY);
  const auto first = Begin(RequestOfSeed(1));
  ASSERT_TRUE(first->ReadUntilRanksFree());
  const auto second = Begin(RequestOfSeed(2));
  first->context.TryCancel();
  EXPECT_EQ(first->ReadToEnd().error_code(), grpc::StatusCode::CANCELLED);
  gate.Open();
  EXPECT_TRUE(second->ReadToEnd().ok());
  EXPECT_EQ(second->bytes, BytesOf(2));
  EXPECT_EQ(Describe().state(), worker::v1::WORKER_STATE_READY);
}

TEST_F(WorkerServiceTest, StoppingWaitsForTheLastImage) {
  Gate gate;
  StartEncoding({}, [&] { gate.Pass(); });
  AwaitState(worker::v1::WORKER_STATE_READY);
  const auto first = Begin(RequestOfSeed(1));
  ASSERT_TRUE(first->ReadUntilRanksFree());
  auto stopped = std::async(std::launch::async, [&] { return worker_->Stop(absl::Seconds(10)); });
  EXPECT_EQ(stopped.wait_for(milliseconds(100)), std::future_status::timeout);
  gate.Open();
  EXPECT_TRUE(first->ReadToEnd().ok());
  EXPECT_EQ(first->bytes, BytesOf(1));
  EXPECT_TRUE(stopped.get());
}

TEST_F(WorkerServiceTest, TooManyWatchersAreRefused) {
  Start({});
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<worker::v1::WatchResponse>>> readers;
  worker::v1::WatchResponse beat;
  for (int i = 0; i < 16; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(stub_->Watch(contexts.back().get(), {}));
    ASSERT_TRUE(readers.back()->Read(&beat));
  }
  grpc::ClientContext context;
  const auto reader = stub_->Watch(&context, {});
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
