#include "worker/execute_call.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/image/metadata.h"
#include "worker/convert.h"
#include "worker/status.h"

namespace patchflow {
namespace {

// An image that tells its parameters, more than where it comes from, tells its plan too.
void AddPlanFacts(const Worker& worker, Job& job) {
  const std::optional<Offer> offer = worker.Describe().offer;
  if (!offer.has_value()) return;
  for (JobImage& image : job.images) {
    Metadata& metadata = image.encode.metadata;
    if (std::all_of(metadata.begin(), metadata.end(),
                    [](const auto& pair) { return pair.first == kDigitalSourceType; })) {
      continue;
    }
    metadata.insert(metadata.end(), offer->plan_facts.begin(), offer->plan_facts.end());
    std::sort(metadata.begin(), metadata.end());
  }
}

}  // namespace

ExecuteReactor::ExecuteReactor(Worker& worker, const worker::v1::ExecuteRequest& request)
    : events_(std::make_shared<EventQueue>([this] { Proceed(std::unique_lock(mutex_)); },
                                           [this](const absl::Status& status) { End(status); })) {
  absl::StatusOr<Job> job = JobOf(request);
  if (job.ok()) AddPlanFacts(worker, *job);
  const absl::Status started =
      job.ok() ? worker.Start(*std::move(job), stop_.get_token(), events_) : job.status();
  if (!started.ok()) End(started);
}

void ExecuteReactor::End(const absl::Status& status) {
  std::unique_lock lock(mutex_);
  end_ = status;
  Proceed(std::move(lock));
}

void ExecuteReactor::Proceed(std::unique_lock<std::mutex> lock) {
  if (busy_) return;
  if (std::optional<worker::v1::ExecuteResponse> message = events_->Take()) {
    message_ = *std::move(message);
    busy_ = true;
    lock.unlock();
    StartWrite(&message_);
  } else if (end_.has_value()) {
    busy_ = true;
    const grpc::Status status = RpcStatusOf(*end_);
    lock.unlock();
    Finish(status);
  }
}

void ExecuteReactor::OnWriteDone(bool ok) {
  if (!ok) events_->Close();
  std::unique_lock lock(mutex_);
  busy_ = false;
  Proceed(std::move(lock));
}

void ExecuteReactor::OnCancel() {
  events_->Close();
  stop_.request_stop();
}

}  // namespace patchflow
