// Of patchflow-server --check: the GPUs of a group, the links between them, and the memory that
// each rank needs.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/check.h"
#include "server/config.h"
#include "server/host_gpus.h"

namespace patchflow {

// Of a group that is started here: "PREFIXdevices", "PREFIXlinks" where it has several GPUs, and,
// if the layout `fits` the model, for each size of `warmup` (else the model's own) "PREFIXmemory
// SIZE". `gpus`: what FindGpus() said. Without GPUs the memory is shown without a verdict.
std::vector<CheckRow> CheckDevices(const GroupConfig& group, const std::string& prefix,
                                   const absl::StatusOr<HostGpus>& gpus, bool fits = true);

// One row if several groups are started on the same GPUs, whose memory must hold them all.
std::vector<CheckRow> CheckSharedDevices(const ServerConfig& config,
                                         const absl::StatusOr<HostGpus>& gpus);

}  // namespace patchflow
