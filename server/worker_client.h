// How the front end speaks to a worker, whatever carries the words.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "patchflow/worker/v1/worker.pb.h"

namespace patchflow {

// One job at a worker. Read() and Finish() on one thread; Cancel() on any.
class ExecuteCall {
 public:
  virtual ~ExecuteCall() = default;
  // Waits for the next event. False at the end of the call.
  virtual bool Read(worker::v1::ExecuteResponse& event) = 0;
  // After Read() was false. A lost worker is UNAVAILABLE without an ErrorInfo.
  virtual absl::Status Finish() = 0;
  // Ends the call soon; the worker stops at a step boundary. Idempotent. Does not wait.
  virtual void Cancel() = 0;
  // Ends the call at once: the worker is given up.
  virtual void Abandon() { Cancel(); }
};

// Whatever runs jobs: a worker, or several as one. Thread-safe.
class JobRunner {
 public:
  virtual ~JobRunner() = default;
  virtual std::unique_ptr<ExecuteCall> Execute(const worker::v1::ExecuteRequest& request) = 0;
  // A hint of what a job to come needs. Does not wait; nobody is told what becomes of it. Ignored
  // by default.
  virtual void Prepare(const worker::v1::PrepareRequest& /*request*/) {}
};

// A heartbeat that goes on until this is destroyed.
class WatchCall {
 public:
  virtual ~WatchCall() = default;  // Waits until neither callback runs or will run.
};

// Thread-safe. Calls with a timeout don't wait for a connection.
class WorkerClient : public JobRunner {
 public:
  virtual absl::StatusOr<worker::v1::DescribeResponse> Describe(absl::Duration timeout) = 0;
  // `on_beat` for each message, `on_end` once when there will be no more. Both are called on a
  // thread of the transport and must not block.
  virtual std::unique_ptr<WatchCall> Watch(
      absl::Duration interval, std::function<void(const worker::v1::WatchResponse&)> on_beat,
      std::function<void(absl::Status)> on_end) = 0;

  // Of a worker that shares its group's ranks with others: see worker.proto.
  virtual absl::StatusOr<worker::v1::MakeWorldResponse> MakeWorld(
      const worker::v1::MakeWorldRequest& request, absl::Duration timeout) = 0;
  virtual absl::Status Join(const worker::v1::JoinRequest& request, absl::Duration timeout) = 0;
  virtual absl::Status Leave(const worker::v1::LeaveRequest& request, absl::Duration timeout) = 0;
  virtual absl::StatusOr<worker::v1::HoldResponse> Hold(const worker::v1::HoldRequest& request,
                                                        absl::Duration timeout) = 0;
  virtual absl::Status StopAt(const worker::v1::StopAtRequest& request, absl::Duration timeout) = 0;
};

// `address`: "unix:PATH" or "host:port". Does not wait for a connection.
using ConnectWorker = std::function<std::unique_ptr<WorkerClient>(const std::string& address)>;

}  // namespace patchflow
