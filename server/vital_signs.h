// What one worker shows of itself while it is watched, and what is wrong with it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "patchflow/worker/v1/worker.pb.h"
#include "server/clock.h"
#include "server/config.h"
#include "server/group.h"
#include "server/worker_process.h"

namespace patchflow {

// What its heartbeats told last.
struct Pulse {
  bool beaten = false;
  bool ended = false;  // No more beats will come on this watch.
  Clock::time_point last;
  worker::v1::WatchResponse beat;
};

// What a fault is besides the loss of a worker.
struct FaultDetail {
  std::optional<worker::v1::DeviceFault> device;  // As the worker tells it.
  std::string watchdog_phase;  // Of kWatchdogPhases: whose limit was passed; empty: none.
  int64_t nccl_errors = 0;
};

struct WorkerFault {
  std::string why;
  LossKind kind = LossKind::kProcessEnded;
  bool ends_itself = true;  // The process is about to end, and its exit status says more.
  FaultDetail detail = {};
  size_t member = 0;  // Of a group of several workers.
};

// It says itself that it failed.
std::optional<WorkerFault> FailureOf(const Pulse& pulse);

// It has been silent for too long: the limit is `heartbeat_timeout`. A process of this host that is
// not ready yet may be five times as slow, as it shares its cores with loading, unless the kernel
// says that it is stopped; and it has a minute for its first beat. `process`: null for one of
// another host, of which nothing is expected before its first beat.
std::optional<WorkerFault> SilenceOf(const Pulse& pulse, Clock::time_point started, bool ready,
                                     WorkerProcess* process, const Supervision& rules);

// What it serves is not what the group is configured for: another batch size.
std::optional<WorkerFault> MismatchOf(const worker::v1::DescribeResponse& info,
                                      const GroupConfig& group);

// For the log, at "debug": a change of the worker's state, and a heartbeat that came late.
// `before`: what was known when `beat` came.
void LogBeat(const std::string& worker, const Pulse& before, const worker::v1::WatchResponse& beat,
             const Supervision& rules);

// Of a job that says nothing: the phase that the rank with the oldest step is in.
std::string StalledPhaseOf(const worker::v1::WatchResponse& beat);

}  // namespace patchflow
