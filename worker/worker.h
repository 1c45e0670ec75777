// A worker without its transport: loads a group of ranks, then runs one job at a time on it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/job.h"
#include "worker/offer.h"
#include "worker/rank_group.h"

namespace patchflow {

struct LoadedGroup {
  std::unique_ptr<RankGroup> group;
  Offer offer;  // Without load_time.
  // What the device and the communicators of each rank say; positions are filled in by the worker.
  // Thread-safe. May be empty.
  std::function<std::vector<RankFigures>()> figures;
};

struct WorkerOptions {
  std::string layout;
  int ranks = 1;
  absl::Time process_start;
  std::function<absl::StatusOr<LoadedGroup>()> load;  // Called once, on the worker's thread.
  // Called once, on the worker's thread, when the group can't be loaded or has failed, after the
  // job's end was told.
  std::function<void(const absl::Status& failure)> on_failed;
};

// Thread-safe. LOADING -> READY <-> BUSY, and FAILED for good.
class Worker {
 public:
  explicit Worker(WorkerOptions options);  // Starts to load.
  ~Worker();                               // Stop(), without a bound.

  // Begins a job. RESOURCE_EXHAUSTED / WORKER_BUSY, UNAVAILABLE / STARTING while it loads, DRAINING
  // after Stop(), ENGINE_FAILED. If OK, `events` is told all of it, OnEnd() when the worker is
  // READY again (or FAILED).
  absl::Status Start(Job job, std::stop_token stop, std::shared_ptr<JobEvents> events);

  // Takes no more jobs, stops the one that runs, and destroys the ranks. False if that takes longer
  // than `timeout`, or if a rank was left behind: the process must then end without running
  // destructors.
  bool Stop(absl::Duration timeout);

  struct Snapshot {
    WorkerState state = WorkerState::kLoading;
    std::string failure;
    uint64_t version = 0;  // Of state.
    std::optional<Offer> offer;
  };
  Snapshot Describe() const;
  // Returns when the state is no longer of `version`, after `timeout`, or when `stop` is requested.
  void WaitForChange(uint64_t version, absl::Duration timeout, std::stop_token stop) const;
  std::vector<RankFigures> Figures() const;
  const std::string& layout() const { return options_.layout; }
  int ranks() const { return options_.ranks; }

 private:
  struct Task {
    Job job;
    std::stop_token stop;
    std::shared_ptr<JobEvents> events;
  };
  void Main();
  void Run(Task task);
  void SetState(WorkerState state, const absl::Status& failure = absl::OkStatus());

  const WorkerOptions options_;
  mutable std::mutex mutex_;
  mutable std::condition_variable_any changed_;
  Snapshot snapshot_;
  std::optional<Task> next_;
  bool stopping_ = false;
  bool ended_ = false;  // The thread has destroyed the group.
  bool left_behind_ = false;
  std::stop_source stop_running_;
  std::optional<LoadedGroup> loaded_;  // Set once, by the thread.
  std::jthread thread_;
};

}  // namespace patchflow
