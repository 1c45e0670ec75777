#include "client/load_call.h"

#include <utility>

#include "absl/time/clock.h"
#include "client/server_error.h"

namespace patchflow {
namespace {

constexpr absl::Duration kConnectTimeout = absl::Seconds(5);
constexpr absl::Duration kCancelTimeout = absl::Seconds(20);

}  // namespace

LoadCall::LoadCall(const LoadTarget& target, int64_t number, PlannedRequest planned, absl::Time due,
                   Done done)
    : target_(target),
      planned_(std::move(planned)),
      done_(std::move(done)),
      stream_(planned_.request.request_id(), StreamContent::kImages, *this) {
  outcome_.number = number;
  outcome_.due = due;
}

double LoadCall::Since() const { return absl::ToDoubleSeconds(absl::Now() - outcome_.due); }

const Connection& LoadCall::OwnConnection() const {
  return target_.connections[static_cast<size_t>(outcome_.number) % target_.connections.size()];
}

v1::ImageGenerationService::Stub* LoadCall::Stub() {
  return own_stub_ ? own_stub_.get() : &OwnConnection().stub();
}

void LoadCall::Begin() {
  outcome_.late_s = Since();
  const absl::Time now = absl::Now();
  const LoadEnding ending = planned_.ending;
  if (ending == LoadEnding::kDisconnect) {
    auto channel = CuttableChannel::Connect(target_.address, kConnectTimeout);
    if (!channel.ok()) {
      broken_ = channel.status();
      target_.timer.At(now, [self = shared_from_this()] { self->OnDone(grpc::Status::OK); });
      return;
    }
    cuttable_ = *std::move(channel);
    own_stub_ = v1::ImageGenerationService::NewStub(cuttable_->channel());
  }
  OwnConnection().Prepare(context_, ending == LoadEnding::kDeadline
                                        ? now + planned_.leave_after
                                        : now + OwnConnection().timeout());
  if (ending != LoadEnding::kWait && ending != LoadEnding::kDeadline) {
    target_.timer.At(now + planned_.leave_after, [call = weak_from_this()] {
      if (const auto self = call.lock()) self->Leave();
    });
  }
  Stub()->async()->GenerateImages(&context_, &planned_.request, this);
  StartRead(&message_);
  StartCall();
}

void LoadCall::Leave() {
  switch (planned_.ending) {
    case LoadEnding::kCancel:
      return context_.TryCancel();
    case LoadEnding::kDisconnect:
      return cuttable_->Cut();
    case LoadEnding::kCancelCall:
      return CallCancel();
    case LoadEnding::kWait:
    case LoadEnding::kDeadline:
      return;
  }
}

void LoadCall::Cancel() {
  context_.TryCancel();
  cancel_.context.TryCancel();
}

void LoadCall::CallCancel() {
  OwnConnection().Prepare(cancel_.context, absl::Now() + kCancelTimeout);
  cancel_.request.set_request_id(planned_.request.request_id());
  Stub()->async()->CancelGeneration(&cancel_.context, &cancel_.request, &cancel_.response,
                                    [self = shared_from_this()](const grpc::Status&) {});
}

void LoadCall::OnReadDone(bool ok) {
  if (!ok) return;
  if (broken_.ok()) broken_ = stream_.Take(message_);
  if (!broken_.ok()) context_.TryCancel();
  StartRead(&message_);
}

void LoadCall::OnDone(const grpc::Status& status) {
  outcome_.total_s = Since();
  outcome_.status = !broken_.ok() ? broken_ : status.ok() ? stream_.Finish() : StatusOf(status);
  outcome_.finished = outcome_.status.ok();
  const auto self = shared_from_this();  // The owner lets go meanwhile.
  done_(planned_, outcome_);
}

void LoadCall::OnAccepted(const std::string&, const v1::Accepted&) { outcome_.accept_s = Since(); }

void LoadCall::OnProgress(const v1::Progress& progress) {
  if (progress.state() == v1::STATE_RUNNING && outcome_.wait_s < 0) outcome_.wait_s = Since();
}

absl::Status LoadCall::OnImage(const v1::ImageHeader& header, std::string) {
  if (outcome_.wait_s < 0) outcome_.wait_s = Since();
  outcome_.images.push_back(header);
  return absl::OkStatus();
}

void LoadCall::OnCompleted(const v1::Completed& completed) {
  outcome_.attempts = completed.attempts();
}

}  // namespace patchflow
