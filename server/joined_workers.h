// The workers of a group that span hosts, as one.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "server/joined_call.h"
#include "server/worker_client.h"

namespace patchflow {

// Of one epoch. Thread-safe.
class JoinedWorkers final : public JobRunner, public std::enable_shared_from_this<JoinedWorkers> {
 public:
  // `members` in the order of their ranks. `timeout`: of what is asked of one of them.
  JoinedWorkers(JoinedCall::Members members, worker::v1::Ownership ownership,
                absl::Duration timeout);

  // Numbers the job and gives it to all: see JoinedCall.
  std::unique_ptr<ExecuteCall> Execute(const worker::v1::ExecuteRequest& request) override;
  void Prepare(const worker::v1::PrepareRequest& request) override;

  // Why they can't be used any more, though none of them may have failed.
  std::optional<std::string> broken() const;

 private:
  const JoinedCall::Members members_;
  const worker::v1::Ownership ownership_;
  const absl::Duration timeout_;
  std::atomic<int64_t> jobs_ = 0;
  mutable std::mutex mutex_;
  std::optional<std::string> broken_;
};

}  // namespace patchflow
