// The GPUs of this host and how they are linked, as the driver's library (NVML) tells.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace patchflow {

struct HostGpu {
  std::string name;
  std::string bus_id;
  int64_t memory_bytes = 0;
};

// How two GPUs reach each other, the fastest first.
enum class GpuLink { kNvlink, kPciSwitch, kPciHost, kProcessors, kUnknown };
const char* Name(GpuLink link);

struct HostGpus {
  std::string driver;
  std::vector<HostGpu> gpus;                // In the order of their numbers.
  std::vector<std::vector<GpuLink>> links;  // [i][j], i != j.
};

// Those that CUDA programs see: all, or the ones that `visible`, CUDA_VISIBLE_DEVICES as it stands,
// names by their numbers, in its order; null: all. Loads the library for as long as it takes.
// NOT_FOUND if there is no such library, so no driver; UNAVAILABLE if it does not answer;
// INVALID_ARGUMENT if `visible` names devices in another way.
absl::StatusOr<HostGpus> FindGpus(const std::string& library, const char* visible);

}  // namespace patchflow
