#include "server/joined_workers.h"

#include <utility>

namespace patchflow {

JoinedWorkers::JoinedWorkers(JoinedCall::Members members, worker::v1::Ownership ownership,
                             absl::Duration timeout)
    : members_(std::move(members)), ownership_(std::move(ownership)), timeout_(timeout) {}

std::unique_ptr<ExecuteCall> JoinedWorkers::Execute(const worker::v1::ExecuteRequest& request) {
  worker::v1::ExecuteRequest own = request;
  *own.mutable_ownership() = ownership_;
  own.set_job(++jobs_);
  return std::make_unique<JoinedCall>(members_, std::move(own), timeout_,
                                      [self = shared_from_this()](const std::string& why) {
                                        const std::lock_guard<std::mutex> lock(self->mutex_);
                                        self->broken_ = why;
                                      });
}

void JoinedWorkers::Prepare(const worker::v1::PrepareRequest& request) {
  for (const auto& member : members_) {
    member->Prepare(request);
  }
}

std::optional<std::string> JoinedWorkers::broken() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return broken_;
}

}  // namespace patchflow
