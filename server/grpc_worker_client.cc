#include "server/grpc_worker_client.h"

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <mutex>
#include <utility>

#include "absl/time/clock.h"
#include "patchflow/worker/v1/worker.grpc.pb.h"
#include "server/clock.h"
#include "server/log.h"
#include "server/status.h"

namespace patchflow {
namespace {

using Stub = worker::v1::WorkerService::Stub;

class GrpcExecuteCall final : public ExecuteCall {
 public:
  GrpcExecuteCall(Stub& stub, const worker::v1::ExecuteRequest& request)
      : reader_(stub.Execute(&context_, request)) {}

  bool Read(worker::v1::ExecuteResponse& event) override {
    const bool read = reader_->Read(&event);
    if (read && event.has_image_trace()) {
      event.mutable_image_trace()->set_arrived_ns(
          std::chrono::nanoseconds(Clock::now().time_since_epoch()).count());
    }
    return read;
  }
  absl::Status Finish() override { return FromGrpc(reader_->Finish()); }
  void Cancel() override { context_.TryCancel(); }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<worker::v1::ExecuteResponse>> reader_;
};

class GrpcWatchCall final : public WatchCall,
                            public grpc::ClientReadReactor<worker::v1::WatchResponse> {
 public:
  GrpcWatchCall(Stub& stub, absl::Duration interval,
                std::function<void(const worker::v1::WatchResponse&)> on_beat,
                std::function<void(absl::Status)> on_end)
      : on_beat_(std::move(on_beat)), on_end_(std::move(on_end)) {
    context_.set_wait_for_ready(true);
    *request_.mutable_interval() = ToProto(interval);
    request_.set_log_level(LogLevel());
    stub.async()->Watch(&context_, &request_, this);
    StartRead(&beat_);
    StartCall();
  }

  ~GrpcWatchCall() override {
    context_.TryCancel();
    std::unique_lock<std::mutex> lock(mutex_);
    ended_.wait(lock, [this] { return done_; });
  }

  void OnReadDone(bool ok) override {
    if (ok) {
      on_beat_(beat_);
      StartRead(&beat_);
    }
  }

  void OnDone(const grpc::Status& status) override {
    on_end_(FromGrpc(status));
    std::lock_guard<std::mutex> lock(mutex_);
    done_ = true;
    ended_.notify_all();
  }

 private:
  const std::function<void(const worker::v1::WatchResponse&)> on_beat_;
  const std::function<void(absl::Status)> on_end_;
  grpc::ClientContext context_;
  worker::v1::WatchRequest request_;
  worker::v1::WatchResponse beat_;
  std::mutex mutex_;
  std::condition_variable ended_;
  bool done_ = false;
};

constexpr absl::Duration kHint = absl::Seconds(1);

// Kept by its own call.
struct HintCall {
  grpc::ClientContext context;
  worker::v1::PrepareRequest request;
  worker::v1::PrepareResponse response;
};

class GrpcWorkerClient final : public WorkerClient {
 public:
  GrpcWorkerClient(const std::string& address,
                   const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 20);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 100);
    stub_ = worker::v1::WorkerService::NewStub(
        grpc::CreateCustomChannel(address, credentials, arguments));
  }

  absl::StatusOr<worker::v1::DescribeResponse> Describe(absl::Duration timeout) override {
    return Call(&Stub::Describe, worker::v1::DescribeRequest(), timeout);
  }
  absl::StatusOr<worker::v1::MakeWorldResponse> MakeWorld(
      const worker::v1::MakeWorldRequest& request, absl::Duration timeout) override {
    return Call(&Stub::MakeWorld, request, timeout);
  }
  absl::Status Join(const worker::v1::JoinRequest& request, absl::Duration timeout) override {
    return Call(&Stub::Join, request, timeout).status();
  }
  absl::Status Leave(const worker::v1::LeaveRequest& request, absl::Duration timeout) override {
    return Call(&Stub::Leave, request, timeout).status();
  }
  absl::StatusOr<worker::v1::HoldResponse> Hold(const worker::v1::HoldRequest& request,
                                                absl::Duration timeout) override {
    return Call(&Stub::Hold, request, timeout);
  }
  absl::Status StopAt(const worker::v1::StopAtRequest& request, absl::Duration timeout) override {
    return Call(&Stub::StopAt, request, timeout).status();
  }

  std::unique_ptr<ExecuteCall> Execute(const worker::v1::ExecuteRequest& request) override {
    return std::make_unique<GrpcExecuteCall>(*stub_, request);
  }

  void Prepare(const worker::v1::PrepareRequest& request) override {
    auto call = std::make_shared<HintCall>();
    call->request = request;
    call->context.set_deadline(absl::ToChronoTime(absl::Now() + kHint));
    stub_->async()->Prepare(&call->context, &call->request, &call->response,
                            [call](const grpc::Status&) {});
  }

  std::unique_ptr<WatchCall> Watch(absl::Duration interval,
                                   std::function<void(const worker::v1::WatchResponse&)> on_beat,
                                   std::function<void(absl::Status)> on_end) override {
    return std::make_unique<GrpcWatchCall>(*stub_, interval, std::move(on_beat), std::move(on_end));
  }

 private:
  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request, absl::Duration timeout) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    Response response;
    const grpc::Status status = ((*stub_).*method)(&context, request, &response);
    if (!status.ok()) {
      return FromGrpc(status);
    }
    return response;
  }

  std::unique_ptr<Stub> stub_;
};

}  // namespace

std::unique_ptr<WorkerClient> ConnectGrpcWorker(
    const std::string& address, const std::shared_ptr<grpc::ChannelCredentials>& tcp) {
  return std::make_unique<GrpcWorkerClient>(
      address, address.rfind("unix:", 0) == 0 ? grpc::InsecureChannelCredentials() : tcp);
}

}  // namespace patchflow
