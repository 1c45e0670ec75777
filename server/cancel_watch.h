// When a group's ranks are free of a job that was cancelled.
#pragma once

#include <functional>
#include <mutex>
#include <vector>

#include "absl/time/time.h"
#include "patchflow/worker/v1/worker.pb.h"
#include "server/clock.h"

namespace patchflow {

// A cancelled gRPC call ends here at once, while the worker still runs the job to the end of its
// step. That the ranks are free is learned from what comes first: a heartbeat that is not BUSY, the
// first event of a later job, or the loss of the worker. Of a batch in which others go on nothing
// becomes free: there a cancelled job's own end counts. Thread-safe; waits for nothing.
class CancelWatch {
 public:
  // How long it took.
  using Report = std::function<void(absl::Duration)>;

  // A call is made that is to have the ranks.
  void Enter();
  // It has them no more: RanksFree came, or it has ended.
  void Leave();
  // A call that was cancelled at `when` has ended here, and left the ranks just now. `report` is
  // called once, on a thread that tells of the ranks: as soon as they are known to be free, at the
  // latest with the first heartbeat 5 min after `when`. At once, if others still have them.
  void Cancelled(Clock::time_point when, Report report);
  // The worker has told the first of a call that was made at `began`.
  void Heard(Clock::time_point began);
  void Beat(worker::v1::WorkerState state);
  // The worker is lost, and with it the job.
  void Lost();

 private:
  struct Waiting {
    Clock::time_point when;
    Report report;
  };
  // Reports those that were cancelled before `until`.
  void ReportBefore(Clock::time_point until);

  std::mutex mutex_;
  int holders_ = 0;
  Clock::time_point free_{};  // The ranks were, last: the epoch if they never were.
  std::vector<Waiting> waiting_;
};

}  // namespace patchflow
