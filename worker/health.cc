#include "worker/health.h"

namespace patchflow {
namespace {

constexpr absl::Duration kLook = absl::Seconds(1);  // Without a change of state.

}  // namespace

WorkerHealth::WorkerHealth(const Worker& worker, grpc::HealthCheckServiceInterface& health)
    : worker_(worker), health_(health) {
  Tell(worker.Describe().state);
  thread_ = std::jthread([this](const std::stop_token& stop) { Follow(stop); });
}

void WorkerHealth::Follow(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    const Worker::Snapshot snapshot = worker_.Describe();
    Tell(snapshot.state);
    worker_.WaitForChange(snapshot.version, kLook, stop);
  }
}

void WorkerHealth::Tell(WorkerState state) {
  const bool ready =
      state == WorkerState::kReady || state == WorkerState::kBusy || state == WorkerState::kWaiting;
  for (const char* service : {"", "readiness", "patchflow.worker.v1.WorkerService"}) {
    health_.SetServingStatus(service, ready);
  }
  health_.SetServingStatus("liveness", state != WorkerState::kFailed);
}

}  // namespace patchflow
