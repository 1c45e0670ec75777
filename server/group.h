// One group of ranks, as the front end sees it: the meeting point of its supervisor, its dispatcher
// and everyone who asks how it is.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "patchflow/worker/v1/worker.pb.h"
#include "server/cancel_watch.h"
#include "server/clock.h"
#include "server/config.h"
#include "server/generation.h"
#include "server/worker_client.h"

namespace patchflow {

enum class GroupState {
  kStarting,    // Its worker has never been ready.
  kServing,     // Takes jobs.
  kRecovering,  // Its worker was lost and comes back.
  kFailed,      // Given up.
};

// Lower case: "serving".
const char* Name(GroupState state);

// How a worker was lost.
enum class LossKind {
  kProcessEnded,
  kHeartbeat,  // Missed, or its connection ended.
  kFailed,     // It said so itself, or it cannot describe itself.
  kLoadTimeout,
  kStalled,     // Its job said nothing for too long.
  kJob,         // It could not finish one.
  kSickDevice,  // A device must not be used again: the group is given up.
};
inline constexpr LossKind kLossKinds[] = {
    LossKind::kProcessEnded, LossKind::kHeartbeat, LossKind::kFailed,    LossKind::kLoadTimeout,
    LossKind::kStalled,      LossKind::kJob,       LossKind::kSickDevice};

// Lower case: "process_ended".
const char* Name(LossKind kind);

// What else is counted of a group, from its first start.
struct FaultCounts {
  std::map<std::string, int> watchdog_trips;  // By phase: see kWatchdogPhases.
  int64_t nccl_errors = 0;
};
// Each has a limit of its own to how long it may take, or show no progress.
inline constexpr const char* kWatchdogPhases[] = {"load", "warm_up", "text",
                                                  "step", "decode",  "encode"};

// One life of the group's worker, or of all of its workers, from ready to lost.
struct Incarnation {
  uint64_t epoch = 0;
  std::shared_ptr<JobRunner> client;
  std::shared_ptr<const worker::v1::DescribeResponse> info;
};

// Thread-safe. The hooks are called without locks held.
class Group {
 public:
  // `losses`, `faults`: those that count from the start, of the group that it follows.
  explicit Group(GroupConfig config, std::map<LossKind, int> losses = {}, FaultCounts faults = {});

  const GroupConfig& config() const { return config_; }

  // Set before the threads start: called after every change of state, and after every beat.
  void OnChange(std::function<void()> hook) { on_change_ = std::move(hook); }
  void OnBeat(std::function<void(const worker::v1::WatchResponse&)> hook) {
    on_beat_ = std::move(hook);
  }

  // -- anyone
  GroupState state() const;
  // Whether its worker was ever ready.
  bool ever_served() const;
  // Failures since the last completed job.
  int failures() const;
  // Times that its worker was lost.
  std::map<LossKind, int> losses() const;
  FaultCounts faults() const;
  // Why its worker was lost or given up.
  std::string failure() const;
  // Of the present or last incarnation; null before the first.
  std::shared_ptr<const worker::v1::DescribeResponse> info() const;
  // Time since it last served; zero while it serves.
  absl::Duration OutOfServiceFor() const;
  // What its ranks make, in one pass; empty when they are idle.
  std::vector<std::shared_ptr<Generation>> running() const;
  // The generations before those whose last images are still compressed and sent.
  std::vector<std::shared_ptr<Generation>> tail() const;
  // Both; the tail first.
  std::vector<std::shared_ptr<Generation>> AtWork() const;
  // Of the job that runs or was the last one, the first of its batch; empty before the first.
  std::string last_request_id() const;
  // Its worker's last heartbeat.
  worker::v1::WatchResponse last_beat() const;

  // -- whoever replaces it
  // No more work comes for its plan: its dispatcher ends when none is left.
  void Retire() { retiring_ = true; }
  // Whether its dispatcher has ended so.
  bool drained() const { return drained_; }

  // -- its supervisor
  void SetServing(std::shared_ptr<JobRunner> client, worker::v1::DescribeResponse info);
  // Counts a failure, unless the worker was not yet lost and ended on request.
  void SetLost(const std::string& why, LossKind kind = LossKind::kProcessEnded);
  // `resumable`: Resume() can undo it, so its dispatcher waits on; otherwise it ends.
  void SetFailed(const std::string& why, bool resumable = false);
  // An operator says that what it was given up for has been mended: it begins anew, without the
  // failures before. Whether it had been given up so.
  bool Resume();
  void CountWatchdogTrip(const std::string& phase);
  void CountNcclErrors(int64_t errors);
  // Why it does not serve; nothing changes but what is told of it.
  void SetFailure(const std::string& why);
  void Beat(const worker::v1::WatchResponse& beat);
  // What the dispatcher holds against the present worker.
  std::optional<std::string> complaint() const;
  // How long the running job, or the tail, has said nothing; zero when there is neither.
  absl::Duration SilentFor() const;
  // Ends every wait, for good.
  void Stop();
  bool stopped() const;

  // -- its dispatcher
  // Waits until it serves; nothing once it has failed for good or stopped.
  std::optional<Incarnation> WaitServing();
  bool Serving(uint64_t epoch) const;
  // The worker of this epoch must be replaced.
  void Complain(uint64_t epoch, const std::string& why);
  void JobCompleted();
  // A generation at the worker, and how to give it up with the worker.
  struct Work {
    std::shared_ptr<Generation> generation;
    std::function<void()> abort;
  };
  // A batch, not empty. Each `abort` is called once if the worker of this epoch is lost, now or
  // before its generation has ended there.
  void SetRunning(uint64_t epoch, std::vector<Work> batch);
  // One of the tail has ended, or else one of those that run.
  void SetEnded(const Generation& generation);
  // The ranks have ended with what runs: that becomes the tail, after the one before has ended.
  void SetRanksFree();
  bool retiring() const { return retiring_; }
  void SetDrained() { drained_ = true; }
  // Of the jobs that were cancelled at its workers.
  CancelWatch& cancels() { return cancels_; }
  // The running job said something.
  void NoteEvent() { last_event_ = Clock::now(); }
  void NoteTailEvent() { last_tail_event_ = Clock::now(); }

 private:
  // Takes what is to be called when the lock is gone.
  std::vector<std::function<void()>> TakeAborts();

  const GroupConfig config_;
  std::function<void()> on_change_ = [] {};
  std::function<void(const worker::v1::WatchResponse&)> on_beat_ =
      [](const worker::v1::WatchResponse&) {};

  CancelWatch cancels_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  GroupState state_ = GroupState::kStarting;
  bool stopped_ = false;
  bool ever_served_ = false;
  int failures_ = 0;
  bool resumable_ = false;
  std::map<LossKind, int> losses_;
  FaultCounts faults_;
  std::string failure_;
  std::optional<std::string> complaint_;
  Incarnation incarnation_;
  Clock::time_point served_until_ = Clock::now();
  worker::v1::WatchResponse last_beat_;
  std::vector<Work> running_;
  std::vector<Work> tail_;
  std::string last_request_id_;
  std::atomic<Clock::time_point> last_event_ = Clock::now();
  std::atomic<Clock::time_point> last_tail_event_ = Clock::now();
  std::atomic<bool> retiring_ = false;
  std::atomic<bool> drained_ = false;
};

}  // namespace patchflow
