// One model: its groups, the queue before them, and what is known of its cost.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "patchflow/v1/image_generation.pb.h"
#include "server/config.h"
#include "server/cost_model.h"
#include "server/group.h"
#include "server/metrics.h"
#include "server/request_queue.h"

namespace patchflow {

// Thread-safe.
class ServedModel {
 public:
  // `groups` and `metrics` must outlive this.
  ServedModel(std::string name, std::vector<Group*> groups, const Limits& limits,
              const ModelMetrics& metrics);

  const std::string& name() const { return name_; }
  // Those that take what comes now.
  std::vector<Group*> groups() const;
  // Those that were replaced and finish what was accepted before.
  std::vector<Group*> leaving() const;
  bool Serves(const Group& group) const;
  RequestQueue& queue() { return queue_; }
  CostModel& costs() { return costs_; }
  const ModelMetrics& metrics() const { return metrics_; }

  bool ready() const;
  // Whether files of this model say that a model made them: unless no group wants it. So it does
  // not matter which one makes an image.
  bool marks_provenance() const;
  // With the limits that apply: the stricter of the model's and the server's. Only the name while
  // nothing is known.
  v1::Model Describe() const;
  v1::Model Describe(const worker::v1::DescribeResponse& info) const;

  // The plan of a request that comes now: of the least loaded of the groups that serve, or that
  // will soon serve again. UNAVAILABLE: STARTING while no group was ever ready, ENGINE_RECOVERING
  // while none will be soon, ENGINE_FAILED when all are given up.
  absl::StatusOr<std::shared_ptr<const worker::v1::DescribeResponse>> ChoosePlan() const;

  // Puts `next`, which must be ready, in the place of the groups, which leave. What is returned
  // expires once everything that may still choose a plan of theirs is queued: see Enter().
  std::weak_ptr<const void> Switch(std::vector<Group*> next);
  // Forgets the groups that leave.
  void DropLeaving();
  // Held by whoever chooses a plan from before it does until what it makes is queued or refused.
  std::shared_ptr<const void> Enter() const;

  // Images that share a pass of the groups of this plan.
  int BatchSizeOf(const std::string& plan_digest) const;
  // Until a generation that comes now, with `ahead` before it, runs, at the groups that serve;
  // while there are none, at those that come back, once they have loaded. Nothing if a cost is
  // unknown, or when that will be. Where images share passes, what waits is taken to fill them,
  // each shape its own; that what comes now may still find room in one counts nothing.
  std::optional<absl::Duration> EstimateWait(
      const std::string& plan_digest, const std::vector<std::shared_ptr<Generation>>& ahead) const;
  // Of one with these parameters, when everything goes as fast as it ever does; what is unknown
  // counts nothing. Nor does, where images share passes, what it may come to share one with.
  absl::Duration BestWait(const std::string& plan_digest, const v1::EffectiveParams& params,
                          const std::vector<std::shared_ptr<Generation>>& ahead) const;

  // How long what waits lets a group be out of service, from the front end's start if it has not
  // served yet.
  struct Patience {
    absl::Duration recovery;  // Limits::recovery_timeout
    // The group's heartbeat says that it loads, or warms up: as long as it may, if that is longer.
    absl::Duration load = absl::ZeroDuration();
    bool draining = false;  // The process is about to end.
  };
  // Ends what waits for a plan that no group has any more (PLAN_CHANGED), that of groups that have
  // been out of service for too long (ENGINE_RECOVERING), and everything once all groups are given
  // up (ENGINE_FAILED). What a group has that has not served yet is not known, so it is waited for
  // as if it were the plan. A durable generation is not ended for what may heal, in this process or
  // the next one: it waits on, and ends as DRAINING with this one.
  void EndHopeless(const Patience& patience);
  // Tells the queued how many are before them.
  void TellPositions();

 private:
  struct Prospect {
    absl::Status end;  // OK: there is hope.
    bool may_heal = false;
  };
  Prospect ProspectOf(const std::string& plan_digest, const std::vector<Group*>& groups,
                      const Patience& patience) const;
  // Those that are not given up.
  std::vector<Group*> GroupsOf(const std::string& plan_digest) const;
  // Also those that leave.
  std::vector<Group*> AllGroups() const;

  const std::string name_;
  const Limits limits_;
  const ModelMetrics& metrics_;
  RequestQueue queue_;
  CostModel costs_;

  mutable std::mutex mutex_;
  std::vector<Group*> groups_;
  std::vector<Group*> leaving_;
  std::shared_ptr<const void> entered_ = std::make_shared<int>();  // Since the last Switch().
};

}  // namespace patchflow
