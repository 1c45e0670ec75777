// The calls that share one pass of a group's ranks, each read to its own end.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "patchflow/worker/v1/worker.pb.h"
#include "server/job.h"
#include "server/thread_pool.h"

namespace patchflow {

// One thread of the pool reads each call, so that none waits for another: they end independently.
// What a worker was too busy to take, beside what it took, is given back at once.
class SharedRun : public std::enable_shared_from_this<SharedRun> {
 public:
  // Called on the threads that read, several at a time, until all calls have ended.
  struct Hooks {
    // An event of a call. `is_tail`: since LeaveRanks().
    std::function<void(const worker::v1::ExecuteResponse&, bool is_tail)> on_event;
    // A call has ended, and it was not for a busy worker, nor with OK but without all images.
    std::function<void(const std::shared_ptr<Generation>&, const absl::Status&)> on_end;
  };
  // `may_leave_tails`: what a call tells after RanksFree is its tail; otherwise it holds the ranks
  // to its end. `threads`, with one to spare for every job, and what the hooks refer to outlive
  // this.
  static std::shared_ptr<SharedRun> Begin(std::vector<std::unique_ptr<JobRun>> jobs,
                                          bool may_leave_tails, Hooks hooks, ThreadPool& threads);

  // Those whose calls have ended and that need another.
  struct Rest {
    std::vector<std::shared_ptr<Generation>> generations;
    // All of them, as the worker took none.
    bool all_busy = false;
    int images_taken = 0;  // Asked for by the calls that the worker took.
  };
  // Blocks until no call holds the ranks any more. `give_back`: called here, with each generation
  // that the worker was too busy for, once it is known to have taken another one.
  Rest AwaitRanks(const std::function<void(const std::shared_ptr<Generation>&)>& give_back);
  // Whether a call goes on without the ranks.
  bool HasTails() const;
  // From now on the ranks are another run's.
  void LeaveRanks() { is_tail_ = true; }
  // Blocks until all calls have ended.
  void AwaitEnd();

 private:
  enum class State {
    kAsked,  // Nothing was heard yet.
    kRuns,
    kTail,        // Without the ranks.
    kBusy,        // The worker did not take it.
    kUnfinished,  // Ended with OK, and without all images.
    kEnded,       // For good, or given back.
  };
  struct Member {
    std::unique_ptr<JobRun> job;
    std::shared_ptr<Generation> generation;  // Null once it is kEnded.
    const int images = 0;
    State state = State::kAsked;
    bool taken = false;  // By the worker, which was not too busy.
  };
  SharedRun(std::vector<std::unique_ptr<JobRun>> jobs, bool may_leave_tails, Hooks hooks);

  void Read(Member& member);
  // What came of a call.
  State Conclude(const Member& member, absl::Status status);
  void Become(Member& member, State state);
  bool AnyLocked(std::initializer_list<State> states) const;
  std::vector<std::shared_ptr<Generation>> TakeBusyLocked();

  const bool may_leave_tails_;
  const Hooks hooks_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Member> members_;  // Their number never changes.
  std::atomic<bool> is_tail_ = false;
};

}  // namespace patchflow
