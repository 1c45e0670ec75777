// Runs what is queued on one group, one generation at a time.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "server/cost_model.h"
#include "server/group.h"
#include "server/metrics.h"
#include "server/registry.h"
#include "server/request_queue.h"

namespace patchflow {

// A generation that is cancelled or past its deadline stops within one step. One whose worker is
// lost goes back into the queue, for any group of the same plan, and only its missing images are
// made again; at the third loss it ends with INTERNAL / POISON_REQUEST. What cannot be healed by
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
  void Run();
  // Until it has ended, is queued again, or its worker is lost.
  void RunGeneration(const Incarnation& worker, const std::shared_ptr<Generation>& generation);
  absl::Status RunJob(const Incarnation& worker, const std::shared_ptr<Generation>& generation);
  void HandleLoss(const Incarnation& worker, const std::shared_ptr<Generation>& generation,
                  const absl::Status& status);

  const Parts parts_;
  std::thread thread_;
};

}  // namespace patchflow
