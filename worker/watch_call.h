// One Watch call.
#pragma once

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <mutex>
#include <stop_token>

#include "absl/time/time.h"
#include "patchflow/worker/v1/worker.grpc.pb.h"
#include "worker/worker.h"

namespace patchflow {

// Who watches a worker. Thread-safe.
class Watchers {
 public:
  // False, and it is not counted, if there are `limit` already.
  bool Enter(int limit);
  // One has been written that the worker FAILED.
  void Tell();
  // One goes. `told`: it called Tell().
  void Leave(bool told);
  // Until all of them have been told, or `timeout` has passed: then false.
  bool AwaitTold(absl::Duration timeout);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int untold_ = 0;
  int told_ = 0;
};

// A thread of its own writes a beat at once, after each interval and at each change of state, until
// the caller goes. Deletes itself when gRPC is done with it.
class WatchReactor final : public grpc::ServerWriteReactor<worker::v1::WatchResponse> {
 public:
  // Has entered `watchers`, and leaves them. Intervals of less than 50 ms count as 50 ms; 500 ms if
  // not set. Sets this process' level of log.
  WatchReactor(Worker& worker, const worker::v1::WatchRequest& request, Watchers& watchers);

  void OnWriteDone(bool ok) override;
  void OnCancel() override { stop_.request_stop(); }
  void OnDone() override;

 private:
  void Beat(Worker& worker);
  bool Write(const worker::v1::WatchResponse& beat);

  const absl::Duration interval_;
  Watchers& watchers_;
  bool told_ = false;  // Used by the thread, and by OnDone() after it.
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
