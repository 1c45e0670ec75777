// A worker without its transport: loads a group of ranks, then runs one batch of jobs at a time on
// it, while the last images of the batch before may still be compressed and sent.
#pragma once

#include <chrono>
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
#include "engine/text_hints.h"
#include "worker/batch.h"
#include "worker/batch_run.h"
#include "worker/device_fault.h"
#include "worker/job.h"
#include "worker/membership.h"
#include "worker/offer.h"
#include "worker/place.h"
#include "worker/rank_group.h"

namespace patchflow {

using RanksHints = std::vector<std::shared_ptr<TextHints>>;

struct LoadedGroup {
  std::unique_ptr<RankGroup> group;
  std::shared_ptr<Encoder> encoder;  // Null: a new one.
  RanksHints text_hints = {};        // One for each rank that follows hints.
  Offer offer;                       // Without load_time.
  // What the device and the communicators of each rank say; positions are filled in by the worker.
  // Thread-safe. May be empty.
  std::function<std::vector<RankFigures>()> figures;
};

// What a worker needs that hosts a share of its group's ranks. Called on the worker's thread, but
// for make_world.
struct ShareOptions {
  int group_ranks = 1;
  std::function<absl::Status()> check;  // What can be refused before it joins.
  std::function<absl::StatusOr<std::string>(const std::string& host)> make_world;  // Any thread.
  std::function<absl::StatusOr<LoadedGroup>(const Place& place)> load;
};

struct WorkerOptions {
  std::string layout;
  int ranks = 1;
  int batch_size = 1;  // Rows of each pass. With a share: 1.
  // How long a batch that is not full waits for more calls.
  std::chrono::steady_clock::duration batch_delay = kBatchDelay;
  absl::Time process_start;
  std::function<absl::StatusOr<LoadedGroup>()> load;  // Called once, on the worker's thread.
  std::optional<ShareOptions> share = std::nullopt;   // Instead of `load`.
  // Called once, on a thread of the worker, when the group can't be loaded or has failed, after the
  // end of the job that failed was told.
  // Or, on a caller's thread, when it was told to leave its group.
  std::function<void(const absl::Status& failure)> on_failed;
  // What follows may be empty.
  // Told first of all, on the worker's thread: what `load` is to call when it begins to warm up.
  std::function<void(std::function<void()> warms_up)> before_load = nullptr;
  // Asked once it has failed, before anyone is told: whether a device is why. Any thread.
  std::function<std::optional<DeviceFault>()> find_device_fault = nullptr;
  std::function<int64_t()> nccl_errors = nullptr;  // Since the start. Any thread.
};

// Thread-safe. LOADING -> WARMING -> READY <-> BUSY, and FAILED for good. A share is WAITING before
// it loads.
class Worker {
 public:
  explicit Worker(WorkerOptions options);  // Starts to load.
  ~Worker();                               // Stop(), without a bound.

  // Begins a job, alone or in a batch that is being collected: it joins one that waits, if it fits
  // (see Batch), or opens one. RESOURCE_EXHAUSTED / WORKER_BUSY, UNAVAILABLE / STARTING while it
  // loads, DRAINING after Stop(), ENGINE_FAILED. If OK, `events` is told all of it, OnRanksFree()
  // or OnEnd() when the worker is READY again (or FAILED): with OnRanksFree() the images of the
  // last pass are left to be encoded and taken away. So much is left of one batch at most: at the
  // next one's end, the worker waits for that. Of a share, `stop` does nothing: see Membership;
  // else see RunBatch().
  absl::Status Start(Job job, std::stop_token stop, std::shared_ptr<JobEvents> events);

  // Texts that a job to come may have, at most max_hinted_texts(), encoded beside what the ranks
  // do. Does not wait. Ignored while it loads, and by a group whose ranks share the text encoder.
  void Prepare(std::vector<std::string> texts);
  int max_hinted_texts() const { return 2 * options_.batch_size; }

  // Of a share (FAILED_PRECONDITION otherwise): the id of a new world while it is WAITING; its
  // place; a new owner; its end. STALE_EPOCH as Membership says.
  absl::StatusOr<std::string> MakeWorld(const std::string& host);
  absl::Status Join(const Ownership& owner, const Place& place);
  absl::Status TakeOver(const Ownership& owner, uint64_t previous_epoch, int first_rank);
  absl::Status Leave(const Ownership& owner, const std::string& why);
  Membership* membership() { return membership_.get(); }  // Null if it hosts all ranks.
  const Membership* membership() const { return membership_.get(); }

  // Takes no more jobs, stops the one that runs, waits for what is left of others, and destroys the
  // ranks. False if that takes longer
  // than `timeout`, or if a rank was left behind: the process must then end without running
  // destructors.
  bool Stop(absl::Duration timeout);

  // Whatever it does, it is of no further use: FAILED, as after a job that failed.
  void Fail(const absl::Status& failure);

  struct Snapshot {
    WorkerState state = WorkerState::kLoading;
    std::string failure;
    std::optional<DeviceFault> device_fault;  // If a device is why it FAILED.
    std::string watchdog_phase;               // If it FAILED because something took too long: what.
    uint64_t version = 0;                     // Of state.
    std::optional<Offer> offer;
  };
  Snapshot Describe() const;
  // Returns when the state is no longer of `version`, after `timeout`, or when `stop` is requested.
  void WaitForChange(uint64_t version, absl::Duration timeout, std::stop_token stop) const;
  std::vector<RankFigures> Figures() const;
  int64_t NcclErrors() const { return options_.nccl_errors ? options_.nccl_errors() : 0; }
  const std::string& layout() const { return options_.layout; }
  int ranks() const { return options_.ranks; }
  int batch_size() const { return options_.batch_size; }

 private:
  void Main();
  // Nothing if it was stopped before it had its place.
  std::optional<absl::StatusOr<LoadedGroup>> Load();
  std::optional<Place> AwaitPlace();
  // The next batch, as full as it gets; nothing once it is stopped.
  std::optional<Batch> AwaitBatch();
  void Run(const Batch& batch);
  // Tells a call that went well that the ranks are free, unless they are lost, or its end.
  void EndWell(const BatchCall& call, const CallEnd& end, bool free, absl::Time begin);
  // Those that did not go well, once the images of the others were handed over.
  void FailBatch(const Batch& batch, const std::vector<CallEnd>& ends, absl::Time begin);
  void BeginTail(const BatchCall& call, const CallEnd& end, absl::Time begin);
  void AwaitTails();
  // False, and nothing changes, if it is FAILED already.
  bool SetState(WorkerState state, const absl::Status& failure = absl::OkStatus());

  const WorkerOptions options_;
  const std::unique_ptr<Membership> membership_;
  mutable std::mutex mutex_;
  mutable std::condition_variable_any changed_;
  Snapshot snapshot_;
  std::optional<Batch> next_;  // Is collected.
  bool stopping_ = false;
  bool ended_ = false;  // The thread has destroyed the group.
  bool left_behind_ = false;
  const std::stop_source stop_running_;
  std::optional<LoadedGroup> loaded_;  // Set once, by the thread.
  absl::Time load_start_;              // Used by the thread.
  int open_tails_ = 0;
  // Of the batch before, one a call: waits for its last images. Used by the thread.
  std::vector<std::thread> tails_;
  std::jthread thread_;
};

}  // namespace patchflow
