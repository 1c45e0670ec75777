#include "worker/worker_service.h"

#include "absl/strings/str_cat.h"
#include "worker/build.h"
#include "worker/convert.h"
#include "worker/execute_call.h"
#include "worker/status.h"
#include "worker/watch_call.h"

namespace patchflow {
namespace {

constexpr int kMaxWatchers = 16;

grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(RpcStatusOf(status));
  return reactor;
}

Ownership OwnershipOf(const worker::v1::Ownership& ownership) {
  return {ownership.owner(), ownership.epoch()};
}

absl::Status CheckHint(const worker::v1::PrepareRequest& hint, int max_texts) {
  if (hint.texts_size() > max_texts) {
    return WithEngineReason(
        absl::InvalidArgumentError(absl::StrCat("texts: ", hint.texts_size(), " of them; at most ",
                                                max_texts, " are allowed")),
        "INVALID_REQUEST");
  }
  for (const std::string& text : hint.texts()) {
    if (text.size() <= kMaxPromptBytes) continue;
    return WithEngineReason(
        absl::InvalidArgumentError(absl::StrCat("texts: one has ", text.size(), " bytes; at most ",
                                                kMaxPromptBytes, " are allowed")),
        "INVALID_REQUEST");
  }
  return absl::OkStatus();
}

// Of a worker that hosts all ranks of its group, for calls that are about sharing them.
absl::Status Alone() {
  return WithEngineReason(absl::FailedPreconditionError("the worker hosts all ranks of its group"),
                          "INVALID_REQUEST");
}

}  // namespace

grpc::ServerUnaryReactor* WorkerService::Describe(grpc::CallbackServerContext* context,
                                                  const worker::v1::DescribeRequest* /*request*/,
                                                  worker::v1::DescribeResponse* response) {
  const Worker::Snapshot snapshot = worker_.Describe();
  response->set_state(StateOf(snapshot.state));
  response->set_failure(snapshot.failure);
  if (snapshot.device_fault.has_value()) {
    *response->mutable_device_fault() = DeviceFaultOf(*snapshot.device_fault);
  }
  *response->mutable_build() = WorkerBuildOf();
  response->set_layout(worker_.layout());
  response->set_ranks(worker_.ranks());
  response->set_group_ranks(worker_.ranks());
  response->set_batch_size(worker_.batch_size());
  if (const Membership* membership = worker_.membership()) {
    response->set_group_ranks(membership->group_ranks());
    response->set_first_rank(membership->place().value_or(Place()).first_rank);
    const Ownership ownership = membership->ownership();
    response->mutable_ownership()->set_owner(ownership.owner);
    response->mutable_ownership()->set_epoch(ownership.epoch);
  }
  if (snapshot.offer.has_value()) {
    *response->mutable_model() = ModelOf(*snapshot.offer, worker_.layout());
    response->set_plan_digest(snapshot.offer->plan_digest);
    *response->mutable_load_time() = DurationOf(snapshot.offer->load_time);
    *response->mutable_warmup_time() = DurationOf(snapshot.offer->warmup_time);
  }
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* WorkerService::Prepare(grpc::CallbackServerContext* context,
                                                 const worker::v1::PrepareRequest* request,
                                                 worker::v1::PrepareResponse* /*response*/) {
  const absl::Status status = CheckHint(*request, worker_.max_hinted_texts());
  if (status.ok()) worker_.Prepare({request->texts().begin(), request->texts().end()});
  return Reply(context, status);
}

grpc::ServerUnaryReactor* WorkerService::MakeWorld(grpc::CallbackServerContext* context,
                                                   const worker::v1::MakeWorldRequest* request,
                                                   worker::v1::MakeWorldResponse* response) {
  absl::StatusOr<std::string> id = worker_.MakeWorld(request->host());
  if (id.ok()) response->set_world_id(*std::move(id));
  return Reply(context, id.status());
}

grpc::ServerUnaryReactor* WorkerService::Join(grpc::CallbackServerContext* context,
                                              const worker::v1::JoinRequest* request,
                                              worker::v1::JoinResponse* /*response*/) {
  const Ownership owner = OwnershipOf(request->ownership());
  return Reply(context,
               request->world_id().empty()
                   ? worker_.TakeOver(owner, request->previous_epoch(), request->first_rank())
                   : worker_.Join(owner, {request->world_id(), request->first_rank()}));
}

grpc::ServerUnaryReactor* WorkerService::Leave(grpc::CallbackServerContext* context,
                                               const worker::v1::LeaveRequest* request,
                                               worker::v1::LeaveResponse* /*response*/) {
  return Reply(context, worker_.Leave(OwnershipOf(request->ownership()), request->why()));
}

grpc::ServerUnaryReactor* WorkerService::Hold(grpc::CallbackServerContext* context,
                                              const worker::v1::HoldRequest* request,
                                              worker::v1::HoldResponse* response) {
  Membership* const membership = worker_.membership();
  if (membership == nullptr) return Reply(context, Alone());
  const absl::StatusOr<int64_t> last =
      membership->Hold(OwnershipOf(request->ownership()), request->job());
  if (last.ok()) response->set_last_begun(*last);
  return Reply(context, last.status());
}

grpc::ServerUnaryReactor* WorkerService::StopAt(grpc::CallbackServerContext* context,
                                                const worker::v1::StopAtRequest* request,
                                                worker::v1::StopAtResponse* /*response*/) {
  Membership* const membership = worker_.membership();
  if (membership == nullptr) return Reply(context, Alone());
  return Reply(context, membership->StopAt(OwnershipOf(request->ownership()), request->job(),
                                           request->step()));
}

grpc::ServerWriteReactor<worker::v1::ExecuteResponse>* WorkerService::Execute(
    grpc::CallbackServerContext* /*context*/, const worker::v1::ExecuteRequest* request) {
  return new ExecuteReactor(worker_, *request);
}

grpc::ServerWriteReactor<worker::v1::WatchResponse>* WorkerService::Watch(
    grpc::CallbackServerContext* /*context*/, const worker::v1::WatchRequest* request) {
  if (watchers_.Enter(kMaxWatchers)) return new WatchReactor(worker_, *request, watchers_);
  return new RefusedWatch(
      RpcStatusOf(WithEngineReason(absl::ResourceExhaustedError(absl::StrCat(
                                       "the worker is watched by ", kMaxWatchers, " already")),
                                   "WORKER_BUSY")));
}

}  // namespace patchflow
