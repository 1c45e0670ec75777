// One Watch call.
#pragma once

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <stop_token>

#include "absl/time/time.h"
#include "patchflow/worker/v1/worker.grpc.pb.h"
#include "worker/worker.h"

namespace patchflow {

// A thread of its own writes a beat at once, after each interval and at each change of state, until
// the caller goes. Deletes itself when gRPC is done with it.
class WatchReactor final : public grpc::ServerWriteReactor<worker::v1::WatchResponse> {
 public:
  // Intervals of less than 50 ms count as 50 ms; 500 ms if not set.
  WatchReactor(Worker& worker, const worker::v1::WatchRequest& request,
               std::function<void()> on_done);

  void OnWriteDone(bool ok) override;
  void OnCancel() override { stop_.request_stop(); }
  void OnDone() override;

 private:
  void Beat(Worker& worker);
  bool Write(const worker::v1::WatchResponse& beat);

  const absl::Duration interval_;
  const std::function<void()> on_done_;
  std::stop_source stop_;
  std::mutex mutex_;
  std::condition_variable written_;
  bool writing_ = false;
  bool write_failed_ = false;
};

// A call that ends at once.
class RefusedWatch final : public grpc::ServerWriteReactor<worker::v1::WatchResponse> {
 public:
  explicit RefusedWatch(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace patchflow
