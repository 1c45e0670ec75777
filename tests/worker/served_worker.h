// A worker of fake ranks behind a unix socket.
#pragma once

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpc/grpc.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/worker/fake_group.h"
#include "tests/worker/scratch.h"
#include "worker/encoder.h"
#include "worker/worker_service.h"

namespace patchflow {

using std::chrono::milliseconds;
using worker::v1::ExecuteResponse;

inline std::string ReasonIn(const grpc::Status& status) {
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  if (!details.ParseFromString(status.error_details()) || details.details_size() != 1 ||
      !details.details(0).UnpackTo(&info)) {
    return "no ErrorInfo";
  }
  EXPECT_EQ(info.domain(), "patchflow");
  return info.reason();
}

inline worker::v1::ExecuteRequest Request(int steps = 4, const std::vector<int>& indices = {0}) {
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

// A worker's service behind a unix socket.
class Socket {
 public:
  explicit Socket(Worker& worker) : service_(worker) {
    // Once for all tests: whoever shuts gRPC down waits up to 10 s for a thread that polls.
    [[maybe_unused]] static const bool kept = (grpc_init(), true);
    const std::string address = "unix:" + (scratch_.path() / "socket").string();
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials());
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    stub_ = worker::v1::WorkerService::NewStub(
        grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  }

  bool listens() const { return server_ != nullptr; }
  WorkerService& service() { return service_; }
  worker::v1::WorkerService::Stub& stub() { return *stub_; }
  void Shutdown(milliseconds patience) {
    server_->Shutdown(std::chrono::system_clock::now() + patience);
  }

 private:
  Scratch scratch_;
  WorkerService service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<worker::v1::WorkerService::Stub> stub_;
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
    options.batch_size = batch_size_;
    options.batch_delay = batch_delay_;
    options.process_start = absl::Now();
    options.load = std::move(load);
    options.on_failed = [this](const absl::Status& failure) { failed_.set_value(failure); };
    worker_ = std::make_unique<Worker>(std::move(options));
    socket_ = std::make_unique<Socket>(*worker_);
    ASSERT_TRUE(socket_->listens());
  }

  void TearDown() override {
    if (socket_ == nullptr) return;
    worker_->Stop(absl::Seconds(5));
    socket_->Shutdown(milliseconds(200));
  }

  static void Bound(grpc::ClientContext& context) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  }

  worker::v1::DescribeResponse Describe() {
    grpc::ClientContext context;
    Bound(context);
    worker::v1::DescribeResponse response;
    const grpc::Status status = socket_->stub().Describe(&context, {}, &response);
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
    const auto reader = socket_->stub().Execute(&context, request);
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
    call->reader = socket_->stub().Execute(&call->context, request);
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

  int batch_size_ = 1;  // Of the worker; set before it is loaded.
  std::chrono::steady_clock::duration batch_delay_ = kBatchDelay;
  std::promise<absl::Status> failed_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<Socket> socket_;
};

}  // namespace patchflow
