// What a Server tells of itself: to Prometheus and to operators.
#include <algorithm>

#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "server/log.h"
#include "server/server_parts.h"
#include "server/version.h"

namespace patchflow {
namespace {

google::protobuf::Timestamp ToProto(absl::Time time) {
  google::protobuf::Timestamp proto;
  proto.set_seconds(absl::ToUnixSeconds(time));
  return proto;
}

int RunningOf(const ServedModel& model) {
  int running = 0;
  for (const auto& groups : {model.groups(), model.leaving()}) {
    for (const Group* group : groups) {
      running += static_cast<int>(group->AtWork().size());
    }
  }
  return running;
}

const char* RoleOf(const Group& group, const ServedModel& model) {
  const std::vector<Group*> leaving = model.leaving();
  if (model.Serves(group)) {
    return "current";
  }
  return std::find(leaving.begin(), leaving.end(), &group) != leaving.end() ? "leaving" : "coming";
}

admin::v1::Worker Describe(const Group& group, bool draining) {
  admin::v1::Worker worker;
  worker.set_group(group.config().name);
  worker.set_model(group.config().model_name);
  worker.set_state(ToldState(group, draining));
  worker.set_failure(group.failure());
  worker.set_failures_in_a_row(group.failures());
  worker.set_folder(group.config().local() ? group.config().model : "");
  worker.set_address(absl::StrJoin(group.config().workers, ","));
  for (const auto& [kind, count] : group.losses()) {
    (*worker.mutable_losses())[Name(kind)] = count;
  }
  if (auto info = group.info()) {
    worker.set_plan_digest(info->plan_digest());
    worker.set_layout(info->layout());
  }
  if (const auto at_work = group.AtWork(); !at_work.empty()) {
    worker.set_running_request_id(at_work.back()->spec().request_id);
  }
  const worker::v1::WatchResponse last_beat = group.last_beat();
  for (const auto& beat : last_beat.ranks()) {
    auto* rank = worker.add_ranks();
    rank->set_rank(beat.rank());
    rank->set_device(beat.device());
    rank->set_memory_used_bytes(beat.memory_used_bytes());
    rank->set_memory_peak_bytes(beat.memory_peak_bytes());
    rank->set_memory_total_bytes(beat.memory_total_bytes());
    rank->set_step(beat.step());
    *rank->mutable_step_age() = beat.step_age();
  }
  return worker;
}

}  // namespace

void Server::RefreshMetrics() {
  parts_->metrics.draining().Set(draining_ || drained_by_admin_ ? 1 : 0);
  parts_->metrics.generations_live().Set(static_cast<double>(parts_->registry.live()));
  parts_->metrics.results_kept().Set(static_cast<double>(parts_->registry.kept()));
  parts_->metrics.results_kept_bytes().Set(static_cast<double>(parts_->registry.kept_bytes()));
  if (parts_->store != nullptr) {
    const Store::Figures figures = parts_->store->figures();
    parts_->metrics.SetStore(figures.generations, figures.bytes, figures.failures);
  }
  const AuditLog::Figures audit = parts_->audit->figures();
  parts_->metrics.SetAudit(audit.waiting, audit.lost, audit.delay, audit.behind);
  for (const auto& [name, model] : parts_->models) {
    const ModelMetrics& metrics = model->metrics();
    metrics.ready->Set(model->ready() ? 1 : 0);
    metrics.queue_depth->Set(static_cast<double>(model->queue().size()));
    metrics.queue_capacity->Set(static_cast<double>(model->queue().capacity()));
    metrics.queue_oldest->Set(absl::ToDoubleSeconds(model->queue().OldestAge()));
    const auto waiting = model->queue().InOrder();
    for (const auto& [priority, gauge] : metrics.queue_depth_of) {
      gauge->Set(static_cast<double>(std::count_if(
          waiting.begin(), waiting.end(),
          [p = priority](const auto& generation) { return generation->spec().priority == p; })));
    }
    absl::Duration wait = model->queue().OldestAge();  // All that is known of unknown costs.
    if (auto plan = model->ChoosePlan(); plan.ok()) {
      wait = model->EstimateWait((*plan)->plan_digest(), waiting).value_or(wait);
    }
    metrics.estimated_wait->Set(absl::ToDoubleSeconds(wait));
    metrics.running->Set(RunningOf(*model));
  }
  for (const Group* group : parts_->fleet.groups()) {
    if (!ModelOf(*group).Serves(*group)) {
      continue;  // Its name is that of the group that does.
    }
    parts_->metrics.group(group->config().name).Set(*group, draining_ || drained_by_admin_);
    if (auto info = group->info()) {
      parts_->metrics.ranks().Describe(group->config().name, *info);
    }
  }
}

admin::v1::GetStatusResponse Server::Status() {
  admin::v1::GetStatusResponse status;
  status.set_version(kVersion);
  status.set_server_instance(parts_->admission.server_instance());
  *status.mutable_start_time() = ToProto(started_);
  status.set_ready(parts_->health.ready());
  status.set_draining(draining_ || drained_by_admin_);
  status.set_log_level(LogLevel());
  status.set_live_generations(static_cast<int64_t>(parts_->registry.live()));
  status.set_kept_generations(static_cast<int64_t>(parts_->registry.kept()));
  status.set_kept_bytes(static_cast<int64_t>(parts_->registry.kept_bytes()));
  if (const double expiry = parts_->metrics.security("tls").certificate_expiry->Value();
      expiry > 0) {
    *status.mutable_certificate_expiry() = ToProto(absl::UnixEpoch() + absl::Seconds(expiry));
  }
  for (const auto& [name, model] : parts_->models) {
    auto* out = status.add_models();
    out->set_name(name);
    out->set_ready(model->ready());
    out->set_queue_depth(static_cast<int>(model->queue().size()));
    out->set_queue_capacity(static_cast<int>(model->queue().capacity()));
    *out->mutable_queued_work() = patchflow::ToProto(model->queue().Work());
    *out->mutable_oldest_age() = patchflow::ToProto(model->queue().OldestAge());
    out->set_running(RunningOf(*model));
    if (started_workers_) {
      if (auto load = parts_->loader->Progress(*model)) {
        *out->mutable_load() = *std::move(load);
      }
    }
  }
  return status;
}

admin::v1::ListWorkersResponse Server::Workers() {
  admin::v1::ListWorkersResponse list;
  for (const Group* group : parts_->fleet.groups()) {
    admin::v1::Worker& worker = *list.add_workers();
    worker = Describe(*group, draining_ || drained_by_admin_);
    worker.set_role(RoleOf(*group, ModelOf(*group)));
  }
  return list;
}

}  // namespace patchflow
