// One Execute call.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>

#include "patchflow/worker/v1/worker.grpc.pb.h"
#include "worker/event_queue.h"
#include "worker/worker.h"

namespace patchflow {

// Writes what the job tells, one message at a time. Deletes itself when gRPC is done with it, which
// is after the job's end. Called by threads of gRPC and of the job.
class ExecuteReactor final : public grpc::ServerWriteReactor<worker::v1::ExecuteResponse> {
 public:
  ExecuteReactor(Worker& worker, const worker::v1::ExecuteRequest& request);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { delete this; }

 private:
  void End(const absl::Status& status);
  // Writes what is due, or finishes the call. Unlocks; the reactor may be gone on return.
  void Proceed(std::unique_lock<std::mutex> lock);

  std::stop_source stop_;
  const std::shared_ptr<EventQueue> events_;
  std::mutex mutex_;
  bool busy_ = false;  // A write is under way, or the call was finished.
  std::optional<absl::Status> end_;
  worker::v1::ExecuteResponse message_;
};

}  // namespace patchflow
