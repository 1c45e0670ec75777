// From a folder, a layout and devices to a group that has made its first images.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "parallel/layout.h"
#include "worker/devices.h"
#include "worker/warm_up.h"
#include "worker/watched_engine.h"
#include "worker/worker.h"

namespace patchflow {

struct LoadOptions {
  std::filesystem::path model_dir;
  Devices devices;      // One for each rank of this process.
  int group_ranks = 0;  // Of the group, if they are more.
  Layout layout;
  int batch_size = 1;                   // Rows of each pass, 1 .. kMaxBatchSize.
  int threads = 0;                      // Of an operation on CPUs, each rank; 0: cores / ranks.
  double default_guidance = 0;          // 0: the checkpoint's.
  std::vector<ImageSize> warm_up = {};  // None: see PlanWarmUp().
  absl::Duration load_timeout = absl::Minutes(30);
  absl::Duration first_run_timeout = absl::Seconds(120);
  absl::Duration phase_timeout = absl::Seconds(10);
  RankWatch watch;
  std::function<void()> on_warm_up = [] {};  // Its weights are read, and it begins to warm up.
};

// Checks layout and warm-up against the model, loads all ranks, digests the checkpoint meanwhile,
// and warms up by making an image of each size. INVALID_ARGUMENT, NOT_FOUND and FAILED_PRECONDITION
// for what another start would not change; else what RankGroup says. Blocks. Sets the process'
// threads per operation.
absl::StatusOr<LoadedGroup> LoadGroup(const LoadOptions& options);

// What LoadGroup refuses before it reads weights, if anything: INVALID_ARGUMENT or NOT_FOUND.
absl::Status CheckLoad(const LoadOptions& options);

// The same for a worker with a share of the group's ranks, once it knows its place.
ShareOptions LoadShare(const LoadOptions& options);

}  // namespace patchflow
