// A worker that makes no images but takes set times, says what a worker says, and fails when the
// prompt asks for it.
//
// The bytes of an image are a function of prompt, negative prompt, seed, size, format and plan. A
// prompt may hold one order, obeyed in every run or, with "once:PATH", only in the run that creates
// the file PATH:
//   fault:die@S      the process gets SIGKILL before step S (in-process workers: every connection
//   breaks) fault:stop@S     the process gets SIGSTOP (in-process workers: heartbeats stop and the
//   job hangs) fault:hang@S     the job stands still; heartbeats go on fault:throw@S    INTERNAL /
//   INTERNAL, and the worker ends fault:oom@S      RESOURCE_EXHAUSTED / GPU_OUT_OF_MEMORY, and the
//   worker ends fault:nan        INTERNAL / NON_FINITE_OUTPUT, and the worker ends fault:refuse
//   INVALID_ARGUMENT / INVALID_REQUEST fault:corrupt    the first image has a wrong SHA-256
//   fault:short      the call ends with OK and without images
// Before step S, the request's number of steps, is when the ranks are free and the last image is
// encoded.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "patchflow/worker/v1/worker.pb.h"

namespace patchflow {

struct FakeWorkerOptions {
  std::string address;  // "unix:PATH" or "host:port".
  absl::Duration load_time;
  absl::Duration step_time;
  absl::Duration text_time;
  absl::Duration decode_time;
  absl::Duration encode_time;  // Of the last image of a job, beside the next job.
  int ranks = 2;
  int batch_size = 1;  // Images of calls that share a pass; each call takes its time beside others.
  std::string layout = "serial";
  std::string dtype = "float32";
  double default_guidance = 4.5;
  std::string plan_digest = "plan-1";
  size_t image_bytes = 4096;   // Of formats other than raw.
  absl::Duration clock_ahead;  // Of this host's monotonic clock.
  bool own_process = false;    // Faults end the process.
  std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials();
};

class FakeWorker {
 public:
  // Null if the address cannot be bound.
  static std::unique_ptr<FakeWorker> Start(const FakeWorkerOptions& options);
  virtual ~FakeWorker() = default;

  // Breaks every connection at once, as if the process were killed. Start another to come back.
  virtual void Die() = 0;
  virtual int executions() const = 0;
  virtual worker::v1::ExecuteRequest last_request() const = 0;
  // Steps done since the start, over all jobs.
  virtual int steps() const = 0;
  virtual bool busy() const = 0;
  // Says FAILED with this text from now on.
  virtual void SayFailed(const std::string& why) = 0;
  // Waits until it is to end: by Die() or a fault.
  virtual void Wait() = 0;
};

// What any fake worker makes for image `index`.
std::string FakeImage(const worker::v1::ExecuteRequest& request, int index,
                      const FakeWorkerOptions& options);

}  // namespace patchflow
