// Runs what is queued on one group, one generation at a time; the last image of one may still be
// compressed and sent, its tail, while the ranks make the next.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "server/cost_model.h"
#include "server/group.h"
#include "server/job.h"
#include "server/metrics.h"
#include "server/registry.h"
#include "server/request_queue.h"

namespace patchflow {

// A generation that is cancelled or past its deadline stops within one step. One whose worker is
// lost goes back into the queue, for any group of the same plan, and only its missing images are
// made again; at the third loss it ends with INTERNAL / POISON_REQUEST. A worker that is lost at a
// generation and a tail is lost by both; whatever was lost before runs without a tail beside it,
// and nothing beside its own, so that no innocent one is lost thrice. What cannot be healed by
// running again (NON_FINITE_OUTPUT, GPU_OUT_OF_MEMORY, a request that the worker refuses) ends it
// at once.
class Dispatcher {
 public:
  // Everything must outlive this.
  struct Parts {
    Group& group;
    RequestQueue& queue;
    CostModel& costs;
    Registry& registry;
    const ModelMetrics& metrics;
  };
  explicit Dispatcher(Parts parts);
  // The group must have been stopped.
  ~Dispatcher();
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

 private:
  // Of a run: what is left of it when the ranks are free for the next; or how it ended.
  struct Outcome {
    std::unique_ptr<JobRun> job;
    absl::Status status;
  };
  void Run();
  // Whether nothing of the group's plan is left to do.
  bool MayRetire(const Incarnation& worker);
  // Until it has ended, is a tail, is queued again, or its worker is lost.
  void RunGeneration(const Incarnation& worker, const std::shared_ptr<Generation>& generation);
  Outcome RunJob(const Incarnation& worker, const std::shared_ptr<Generation>& generation);
  // Tells the worker the texts of what is likely to run next, so that it can encode them beside the
  // denoising. Binds nobody. False if nothing is queued.
  bool HintNext(const Incarnation& worker);
  // Waits for the one before.
  void BeginTail(const Incarnation& worker, std::unique_ptr<JobRun> job);
  void RunTails();
  void RunTail(const Incarnation& worker, JobRun& job);
  void AwaitTail();
  void CountIfCompleted(const Generation& generation);
  // What a run that failed means for its generation.
  void Settle(const Incarnation& worker, const std::shared_ptr<Generation>& generation,
              const absl::Status& status);
  void HandleLoss(const Incarnation& worker, const std::shared_ptr<Generation>& generation,
                  const absl::Status& status);

  const Parts parts_;
  struct Tail {
    Incarnation worker;
    std::unique_ptr<JobRun> job;
  };
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Tail> tail_;  // Set by thread_, used and reset by tails_.
  bool ending_ = false;
  std::thread tails_;
  std::thread thread_;
};

}  // namespace patchflow
