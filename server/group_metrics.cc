#include "server/group_metrics.h"

#include <algorithm>

#include "absl/time/time.h"

namespace patchflow {
namespace {

constexpr const char* kStates[] = {"starting", "warming",    "serving",
                                   "draining", "recovering", "failed"};

void RaiseTo(double value, prometheus::Counter& counter) {
  counter.Increment(std::max(0.0, value - counter.Value()));
}

}  // namespace

const char* ToldState(const Group& group, bool draining) {
  const GroupState state = group.state();
  if (state == GroupState::kServing) {
    return draining ? "draining" : Name(state);
  }
  const bool warms_up = group.last_beat().state() == worker::v1::WORKER_STATE_WARMING;
  return warms_up && state != GroupState::kFailed ? "warming" : Name(state);
}

GroupMetrics::GroupMetrics(prometheus::Registry& registry, const std::string& name) {
  const auto gauge = [&](const char* family, const char* help, prometheus::Labels labels = {}) {
    labels["group"] = name;
    return &prometheus::BuildGauge().Name(family).Help(help).Register(registry).Add(labels);
  };
  const auto counter = [&](const char* family, const char* help, prometheus::Labels labels = {}) {
    labels["group"] = name;
    return &prometheus::BuildCounter().Name(family).Help(help).Register(registry).Add(labels);
  };
  for (const char* state : kStates) {
    state_[state] = gauge("patchflow_group_state", "1 for the state it is in.", {{"state", state}});
  }
  state_["starting"]->Set(1);
  restarts_ = counter("patchflow_group_restarts_total", "Times that its worker was lost.");
  for (const LossKind kind : kLossKinds) {
    losses_[kind] = counter("patchflow_worker_losses_total",
                            "Times that its worker was lost, by how.", {{"reason", Name(kind)}});
  }
  for (const char* phase : kWatchdogPhases) {
    watchdog_trips_[phase] = counter(
        "patchflow_watchdog_trips_total",
        "Times that its worker was lost because a phase took too long.", {{"phase", phase}});
  }
  nccl_errors_ = counter("patchflow_nccl_errors_total",
                         "Errors of NCCL, and operations that it did not end in time.");
  gpu_oom_ = counter("patchflow_gpu_oom_total", "Jobs that did not fit into its devices' memory.");
  load_time_ = gauge("patchflow_model_load_seconds", "From its worker's start to ready.");
  warmup_time_ = gauge("patchflow_warmup_seconds", "Of that, warm-up.");
}

void GroupMetrics::Set(const Group& group, bool draining) {
  const std::string told = ToldState(group, draining);
  for (const auto& [state, gauge] : state_) {
    gauge->Set(state == told ? 1 : 0);
  }
  int restarts = 0;
  for (const auto& [kind, count] : group.losses()) {
    RaiseTo(count, *losses_.at(kind));
    restarts += count;
  }
  RaiseTo(restarts, *restarts_);
  const FaultCounts faults = group.faults();
  for (const auto& [phase, trips] : faults.watchdog_trips) {
    if (auto known = watchdog_trips_.find(phase); known != watchdog_trips_.end()) {
      RaiseTo(trips, *known->second);
    }
  }
  RaiseTo(static_cast<double>(faults.nccl_errors), *nccl_errors_);
  if (const auto info = group.info()) {
    load_time_->Set(absl::ToDoubleSeconds(FromProto(info->load_time())));
    warmup_time_->Set(absl::ToDoubleSeconds(FromProto(info->warmup_time())));
  }
}

}  // namespace patchflow
