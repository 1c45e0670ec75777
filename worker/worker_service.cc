#include "worker/worker_service.h"

#include "absl/strings/str_cat.h"
#include "worker/convert.h"
#include "worker/execute_call.h"
#include "worker/status.h"
#include "worker/watch_call.h"

namespace patchflow {
namespace {

constexpr int kMaxWatchers = 16;

}  // namespace

grpc::ServerUnaryReactor* WorkerService::Describe(grpc::CallbackServerContext* context,
                                                  const worker::v1::DescribeRequest* /*request*/,
                                                  worker::v1::DescribeResponse* response) {
  const Worker::Snapshot snapshot = worker_.Describe();
  response->set_state(StateOf(snapshot.state));
  response->set_failure(snapshot.failure);
  response->set_layout(worker_.layout());
  response->set_ranks(worker_.ranks());
  if (snapshot.offer.has_value()) {
    *response->mutable_model() = ModelOf(*snapshot.offer, worker_.layout());
    response->set_plan_digest(snapshot.offer->plan_digest);
    *response->mutable_load_time() = DurationOf(snapshot.offer->load_time);
    *response->mutable_warmup_time() = DurationOf(snapshot.offer->warmup_time);
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<worker::v1::ExecuteResponse>* WorkerService::Execute(
    grpc::CallbackServerContext* /*context*/, const worker::v1::ExecuteRequest* request) {
  return new ExecuteReactor(worker_, *request);
}

grpc::ServerWriteReactor<worker::v1::WatchResponse>* WorkerService::Watch(
    grpc::CallbackServerContext* /*context*/, const worker::v1::WatchRequest* request) {
  if (watchers_.fetch_add(1) < kMaxWatchers) {
    return new WatchReactor(worker_, *request, [this] { --watchers_; });
  }
  --watchers_;
  return new RefusedWatch(
      RpcStatusOf(WithEngineReason(absl::ResourceExhaustedError(absl::StrCat(
                                       "the worker is watched by ", kMaxWatchers, " already")),
                                   "WORKER_BUSY")));
}

}  // namespace patchflow
