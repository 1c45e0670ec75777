// patchflow.worker.v1.WorkerService over a Worker.
#pragma once

#include <grpcpp/grpcpp.h>

#include "patchflow/worker/v1/worker.grpc.pb.h"
#include "worker/watch_call.h"
#include "worker/worker.h"

namespace patchflow {

// The worker outlives the service; the server that the service is registered with is shut down
// before either is gone.
class WorkerService final : public worker::v1::WorkerService::CallbackService {
 public:
  explicit WorkerService(Worker& worker) : worker_(worker) {}

  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context,
                                     const worker::v1::DescribeRequest* request,
                                     worker::v1::DescribeResponse* response) override;
  grpc::ServerWriteReactor<worker::v1::ExecuteResponse>* Execute(
      grpc::CallbackServerContext* context, const worker::v1::ExecuteRequest* request) override;
  grpc::ServerUnaryReactor* Prepare(grpc::CallbackServerContext* context,
                                    const worker::v1::PrepareRequest* request,
                                    worker::v1::PrepareResponse* response) override;
  grpc::ServerUnaryReactor* MakeWorld(grpc::CallbackServerContext* context,
                                      const worker::v1::MakeWorldRequest* request,
                                      worker::v1::MakeWorldResponse* response) override;
  grpc::ServerUnaryReactor* Join(grpc::CallbackServerContext* context,
                                 const worker::v1::JoinRequest* request,
                                 worker::v1::JoinResponse* response) override;
  grpc::ServerUnaryReactor* Leave(grpc::CallbackServerContext* context,
                                  const worker::v1::LeaveRequest* request,
                                  worker::v1::LeaveResponse* response) override;
  grpc::ServerUnaryReactor* Hold(grpc::CallbackServerContext* context,
                                 const worker::v1::HoldRequest* request,
                                 worker::v1::HoldResponse* response) override;
  grpc::ServerUnaryReactor* StopAt(grpc::CallbackServerContext* context,
                                   const worker::v1::StopAtRequest* request,
                                   worker::v1::StopAtResponse* response) override;
  // At most 16 calls at once: RESOURCE_EXHAUSTED / WORKER_BUSY.
  grpc::ServerWriteReactor<worker::v1::WatchResponse>* Watch(
      grpc::CallbackServerContext* context, const worker::v1::WatchRequest* request) override;

  // Of a worker that FAILED: until all who watch it have been written so, or `timeout` has passed:
  // then false.
  bool AwaitTold(absl::Duration timeout) { return watchers_.AwaitTold(timeout); }

 private:
  Worker& worker_;
  Watchers watchers_;
};

}  // namespace patchflow
