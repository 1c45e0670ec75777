// Whether other weights of a model have room beside those that are served.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "patchflow/worker/v1/worker.pb.h"

namespace patchflow {

// Of a GPU, for the CUDA context and libraries of a process.
inline constexpr int64_t kContextBytes = int64_t{3} << 29;

// What is known of a group that other weights shall be loaded beside.
struct GroupMemory {
  std::string name;
  std::vector<worker::v1::RankStatus> ranks;  // Of its last heartbeat.
};

// Bytes that programs of this host can still get: the kernel's MemAvailable, or what the limit of
// the cgroup (v2) leaves if that is less; -1 if neither can be read. `root`: where /proc and /sys
// are, for tests.
int64_t AvailableHostMemory(const std::string& root = "/");

// RESOURCE_EXHAUSTED / NOT_ENOUGH_MEMORY, in words and figures, if a second worker of every group
// does not fit. `old_bytes`, `new_bytes`: of the files of both versions' weights.
//
// On a GPU a rank is taken to need its peak so far, in proportion to the weights but not less, and
// 1.5 GiB for the CUDA context and libraries, as its first worker does; other programs on the GPU
// are not known. On the host a worker of CPUs is taken to need its weights twice (they may be
// stored in half the width), one of GPUs once (they are read through it), and each 256 MiB.
// host_available < 0: not known, and not checked.
absl::Status CheckRoom(const std::vector<GroupMemory>& groups, int64_t old_bytes, int64_t new_bytes,
                       int64_t host_available);

}  // namespace patchflow
