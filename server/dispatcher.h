// Runs what is queued on one group, one batch at a time; the last images of one may still be
// compressed and sent, its tail, while the ranks make the next.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "server/cost_model.h"
#include "server/group.h"
#include "server/job.h"
#include "server/metrics.h"
#include "server/registry.h"
#include "server/request_queue.h"
#include "server/shared_run.h"
#include "server/thread_pool.h"

namespace patchflow {

// A batch is what the queue gives at once: generations of one shape, GroupConfig::batch_size images
// at most; each is a call of its own, and they end independently. One that is cancelled or past
// its deadline stops within one step. One whose worker is lost goes back into the queue, for any
// group of the same plan, and only its missing images are made again; at the third loss it ends
// with INTERNAL / POISON_REQUEST. One that a busy worker never took has lost nothing. A worker that
// is lost at a batch and its tail is lost by all of them; whatever was lost before runs alone,
// without a tail beside it, and nothing beside its own, so that no innocent one is lost thrice.
// What cannot be healed by running again (NON_FINITE_OUTPUT, GPU_OUT_OF_MEMORY, a request that the
// worker refuses) ends it at once; or if it was not alone, is first seen to come again when it is.
class Dispatcher {
 public:
  // Everything must outlive this.
  struct Parts {
    Group& group;
    RequestQueue& queue;
    CostModel& costs;
    Registry& registry;
    const ModelMetrics& metrics;
    // That a worker may be busy with what was cancelled, say in a long step, before it counts as
    // lost. Its own watchdogs are faster than this.
    absl::Duration max_busy = absl::Minutes(10);
  };
  explicit Dispatcher(Parts parts);
  // The group must have been stopped.
  ~Dispatcher();
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

 private:
  using Batch = std::vector<std::shared_ptr<Generation>>;

  void Run();
  // Whether nothing of the group's plan is left to do.
  bool MayRetire(const Incarnation& worker);
  // Each with its part of the pass; those that have ended are dropped.
  void StartAll(Batch& batch);
  // Until all have ended, are a tail, are queued again, or their worker is lost.
  void RunBatch(const Incarnation& worker, Batch batch);
  // Calls the worker for each.
  std::shared_ptr<SharedRun> Ask(const Incarnation& worker, const Batch& batch);
  void CountPasses(int images) const;
  // Whether its denoising takes long enough for anything to be done beside it.
  bool IsWorthAHint(const Incarnation& worker, const Generation& generation) const;
  // Tells the worker the texts of what is likely to run next, so that it can encode them beside the
  // denoising. Binds nobody. False if nothing is queued.
  bool HintNext(const Incarnation& worker);
  // Waits for the one before.
  void BeginTail(std::shared_ptr<SharedRun> run);
  void AwaitTail();
  // The worker has done with it. `alone`: no other was in its pass.
  void EndRun(const Incarnation& worker, const std::shared_ptr<Generation>& generation,
              const absl::Status& status, bool alone);
  // What a run that failed means for its generation.
  void Settle(const Incarnation& worker, const std::shared_ptr<Generation>& generation,
              const absl::Status& status, bool alone);
  void HandleLoss(const Incarnation& worker, const std::shared_ptr<Generation>& generation,
                  const absl::Status& status);
  // Into the queue; its attempt has risen if it shall run alone.
  void QueueAgain(const std::shared_ptr<Generation>& generation);

  const Parts parts_;
  std::shared_ptr<SharedRun> tail_;  // Used by thread_ alone.
  ThreadPool readers_;
  std::thread thread_;
};

}  // namespace patchflow
