// What is counted of the groups, for Prometheus.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <map>
#include <string>

#include "server/group.h"

namespace patchflow {

// The group's state as it is told: Name() of it, but "warming" while its worker warms up, and
// "draining" while it serves only what was accepted before.
const char* ToldState(const Group& group, bool draining);

// Of one group name, whichever version of its model serves under it. All series exist from the
// start, at 0. Used by one thread at a time.
class GroupMetrics {
 public:
  GroupMetrics(prometheus::Registry& registry, const std::string& name);

  // Takes over what the group says now. Its counts never fall.
  void Set(const Group& group, bool draining);
  // Jobs that ended with GPU_OUT_OF_MEMORY: for any thread.
  prometheus::Counter& gpu_oom() const { return *gpu_oom_; }

 private:
  std::map<std::string, prometheus::Gauge*> state_;  // One of them is 1.
  prometheus::Counter* restarts_;
  std::map<LossKind, prometheus::Counter*> losses_;
  std::map<std::string, prometheus::Counter*> watchdog_trips_;
  prometheus::Counter* nccl_errors_;
  prometheus::Counter* gpu_oom_;
  prometheus::Gauge* load_time_;
  prometheus::Gauge* warmup_time_;
};

}  // namespace patchflow
