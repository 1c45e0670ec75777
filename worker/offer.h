// What a worker serves and how it is, in the engine's words.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/engine.h"
#include "worker/group_job.h"

namespace patchflow {

enum class WorkerState { kLoading, kReady, kBusy, kFailed, kWaiting, kWarming };

// Known once the group has loaded.
struct Offer {
  ModelDescription description;
  std::string model_digest;
  std::string plan_digest;
  std::vector<std::pair<std::string, std::string>> plan_facts;  // See PlanFacts().
  std::string dtype;
  std::string device;
  int64_t max_pixels = 0;
  absl::Duration load_time;    // From the start of the process until READY.
  absl::Duration warmup_time;  // Of that.
};

// What a rank sent by one kind of operation between ranks, and how long it waited for that kind.
struct CommunicationTime {
  const char* operation;  // As worker.proto says.
  int64_t calls = 0;
  absl::Duration time;
  int64_t bytes = 0;
};

struct RankFigures {
  RankPosition position;
  int64_t memory_used_bytes = 0;
  int64_t memory_peak_bytes = 0;  // Since the start.
  int64_t memory_total_bytes = 0;
  int64_t memory_reserved_bytes = 0;
  int64_t device_used_bytes = 0;
  int64_t device_peak_bytes = 0;                       // Since the start.
  int64_t communication_bytes = 0;                     // Sent since the start.
  std::vector<CommunicationTime> communication_times;  // Since the start. See Traffic.
  std::string device;
};

}  // namespace patchflow
