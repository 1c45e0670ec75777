// grpc.health.v1 of a worker, for probes: Check and Watch.
#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <thread>

#include "worker/worker.h"

namespace patchflow {

// "liveness" is SERVING until the worker has failed. "readiness", "" and the name of its service
// are SERVING while it takes or runs a job, or waits for its place in a group. They follow the
// worker's state at once, on a thread of this object's own. gRPC answers the calls
// (grpc::EnableDefaultHealthCheckService() before the server is built), as NOT_FOUND for other
// names.
class WorkerHealth {
 public:
  // Both must outlive this, and `health` be the server's own.
  WorkerHealth(const Worker& worker, grpc::HealthCheckServiceInterface& health);

 private:
  void Follow(const std::stop_token& stop);
  void Tell(WorkerState state);

  const Worker& worker_;
  grpc::HealthCheckServiceInterface& health_;
  std::jthread thread_;
};

}  // namespace patchflow
