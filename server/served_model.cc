#include "server/served_model.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/draining.h"
#include "server/errors.h"
#include "server/random.h"

namespace patchflow {
namespace {

// A group that is lost for the first time starts again at once, so what comes meanwhile may as well
// wait for it.
constexpr absl::Duration kSoon = absl::Seconds(30);

bool ServesSoon(const Group& group) {
  return group.state() == GroupState::kRecovering && group.failures() <= 1 &&
         group.OutOfServiceFor() < kSoon;
}

bool Loads(const Group& group) {
  const worker::v1::WorkerState says = group.last_beat().state();
  return says == worker::v1::WORKER_STATE_LOADING || says == worker::v1::WORKER_STATE_WARMING;
}

// Whether it serves, or what waits for it may as well wait on.
bool MayServe(const Group& group, const ServedModel::Patience& patience) {
  const GroupState state = group.state();
  if (state == GroupState::kServing || state == GroupState::kFailed) {
    return state == GroupState::kServing;
  }
  const absl::Duration out = group.OutOfServiceFor();
  return out < patience.recovery || (out < patience.load && Loads(group));
}

template <typename Number>
void Tighten(Number limit, Number own, void (v1::ModelLimits::*set)(Number),
             v1::ModelLimits& limits) {
  if (limit > 0 && (own == 0 || limit < own)) {
    (limits.*set)(limit);
  }
}

absl::Duration LoadTime(const std::vector<Group*>& groups) {
  absl::Duration least = absl::Seconds(10);
  for (const Group* group : groups) {
    if (auto info = group->info()) {
      least = std::min(least, FromProto(info->load_time()));
    }
  }
  return std::max(absl::Seconds(1), least);
}

absl::Status RecoveringError(const std::vector<Group*>& groups) {
  return WithRetry(MakeError(absl::StatusCode::kUnavailable, reason::kEngineRecovering,
                             "the model's groups were lost and are starting again"),
                   Jittered(LoadTime(groups)));
}

absl::Status FailedError() {
  return MakeError(absl::StatusCode::kUnavailable, reason::kEngineFailed,
                   "the model's groups failed and are given up");
}

}  // namespace

ServedModel::ServedModel(std::string name, std::vector<Group*> groups, const Limits& limits,
                         const ModelMetrics& metrics)
    : name_(std::move(name)),
      limits_(limits),
      metrics_(metrics),
      queue_(QueueBounds{.requests = static_cast<size_t>(limits.max_queue),
                         .work = limits.max_queue_work}),
      groups_(std::move(groups)) {}

std::vector<Group*> ServedModel::groups() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return groups_;
}

std::vector<Group*> ServedModel::leaving() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return leaving_;
}

std::vector<Group*> ServedModel::AllGroups() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Group*> all = groups_;
  all.insert(all.end(), leaving_.begin(), leaving_.end());
  return all;
}

bool ServedModel::Serves(const Group& group) const {
  std::lock_guard<std::mutex> lock(mutex_);
  return std::find(groups_.begin(), groups_.end(), &group) != groups_.end();
}

std::weak_ptr<const void> ServedModel::Switch(std::vector<Group*> next) {
  std::shared_ptr<const void> entered = std::make_shared<int>();
  std::lock_guard<std::mutex> lock(mutex_);
  leaving_ = std::exchange(groups_, std::move(next));
  entered_.swap(entered);
  return entered;
}

void ServedModel::DropLeaving() {
  std::lock_guard<std::mutex> lock(mutex_);
  leaving_.clear();
}

std::shared_ptr<const void> ServedModel::Enter() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return entered_;
}

bool ServedModel::ready() const {
  const std::vector<Group*> groups = this->groups();
  return std::any_of(groups.begin(), groups.end(),
                     [](const Group* group) { return group->state() == GroupState::kServing; });
}

bool ServedModel::marks_provenance() const {
  const std::vector<Group*> groups = this->groups();
  return std::any_of(groups.begin(), groups.end(),
                     [](const Group* group) { return group->config().provenance_mark; });
}

v1::Model ServedModel::Describe() const {
  v1::Model model;
  model.set_name(name_);
  std::vector<std::string> layouts;
  for (const Group* group : groups()) {
    if (auto info = group->info()) {
      if (layouts.empty()) {
        model = Describe(*info);
      }
      if (std::find(layouts.begin(), layouts.end(), info->layout()) == layouts.end()) {
        layouts.push_back(info->layout());
      }
    }
  }
  model.clear_layouts();
  for (const std::string& layout : layouts) {
    model.add_layouts(layout);
  }
  model.set_ready(ready());
  return model;
}

v1::Model ServedModel::Describe(const worker::v1::DescribeResponse& info) const {
  v1::Model model = info.model();
  model.set_name(name_);
  v1::ModelLimits& limits = *model.mutable_limits();
  Tighten<int64_t>(limits_.max_pixels, limits.max_pixels(), &v1::ModelLimits::set_max_pixels,
                   limits);
  Tighten<int32_t>(limits_.max_count, limits.max_count(), &v1::ModelLimits::set_max_count, limits);
  Tighten<int32_t>(limits_.max_steps, limits.max_steps(), &v1::ModelLimits::set_max_steps, limits);
  Tighten<int32_t>(limits_.max_prompt_bytes, limits.max_prompt_bytes(),
                   &v1::ModelLimits::set_max_prompt_bytes, limits);
  return model;
}

absl::StatusOr<std::shared_ptr<const worker::v1::DescribeResponse>> ServedModel::ChoosePlan()
    const {
  const std::vector<Group*> groups = this->groups();
  std::vector<Group*> candidates;
  for (Group* group : groups) {
    if (group->state() == GroupState::kServing) {
      candidates.push_back(group);
    }
  }
  bool failed = false;
  bool recovering = false;
  for (Group* group : groups) {
    failed = failed || group->state() == GroupState::kFailed;
    recovering = recovering || group->state() == GroupState::kRecovering;
  }
  if (candidates.empty()) {
    std::copy_if(groups.begin(), groups.end(), std::back_inserter(candidates),
                 [](const Group* group) { return ServesSoon(*group); });
  }
  if (candidates.empty() && recovering) {
    return RecoveringError(groups);
  }
  if (candidates.empty() && failed) {
    return FailedError();
  }
  if (candidates.empty()) {
    return WithRetry(
        MakeError(absl::StatusCode::kUnavailable, reason::kStarting,
                  absl::StrCat("model ", name_, " is being loaded"), {{"model", name_}}),
        Jittered(absl::Seconds(1)));
  }
  std::map<std::string, std::pair<double, double>> load;  // Plan -> requests, groups.
  for (const Group* group : candidates) {
    auto& [requests, count] = load[group->info()->plan_digest()];
    requests += group->running().empty() ? 0 : 1;
    count += 1;
  }
  if (load.size() == 1) {
    return candidates.front()->info();
  }
  for (auto& [plan, counts] : load) {
    counts.first += static_cast<double>(queue_.SizeOf(plan));
  }
  const Group* least =
      *std::min_element(candidates.begin(), candidates.end(), [&](const Group* a, const Group* b) {
        const auto [requests_a, groups_a] = load[a->info()->plan_digest()];
        const auto [requests_b, groups_b] = load[b->info()->plan_digest()];
        return requests_a / groups_a < requests_b / groups_b;
      });
  return least->info();
}

std::vector<Group*> ServedModel::GroupsOf(const std::string& plan_digest) const {
  std::vector<Group*> groups;
  for (Group* group : AllGroups()) {
    auto info = group->info();
    if (info != nullptr && info->plan_digest() == plan_digest &&
        group->state() != GroupState::kFailed) {
      groups.push_back(group);
    }
  }
  return groups;
}

int ServedModel::BatchSizeOf(const std::string& plan_digest) const {
  const std::vector<Group*> groups = GroupsOf(plan_digest);
  return groups.empty() ? 1 : std::max(1, groups.front()->info()->batch_size());
}

ServedModel::Prospect ServedModel::ProspectOf(const std::string& plan_digest,
                                              const std::vector<Group*>& groups,
                                              const Patience& patience) const {
  bool any_may_serve = false;
  bool all_failed = true;
  bool has_plan = false;       // A group,
  bool may_come_back = false;  // and it is not given up.
  for (const Group* group : groups) {
    const auto info = group->info();
    const bool of_plan = info != nullptr && info->plan_digest() == plan_digest;
    const bool failed = group->state() == GroupState::kFailed;
    const bool may_serve = MayServe(*group, patience);
    if (may_serve && (of_plan || info == nullptr)) {
      return {};
    }
    any_may_serve = any_may_serve || may_serve;
    all_failed = all_failed && failed;
    has_plan = has_plan || of_plan;
    may_come_back = may_come_back || (of_plan && !failed);
  }
  if (all_failed) {
    return {FailedError(), true};
  }
  if (may_come_back || !any_may_serve) {
    return {RecoveringError(groups), true};
  }
  return {MakeError(absl::StatusCode::kUnavailable, reason::kPlanChanged,
                    "no group has the plan that this request was accepted for",
                    {{"plan_digest", plan_digest}}),
          has_plan};
}

void ServedModel::EndHopeless(const Patience& patience) {
  const std::vector<Group*> groups = AllGroups();
  std::map<std::string, Prospect> prospects;
  for (const auto& generation : queue_.InOrder()) {
    const std::string& plan = generation->spec().accepted.plan_digest();
    auto [found, fresh] = prospects.try_emplace(plan);
    Prospect& prospect = found->second;
    if (fresh) {
      prospect = ProspectOf(plan, groups, patience);
    }
    const bool waits_on = generation->durable() && prospect.may_heal;
    if (prospect.end.ok() || (waits_on && !patience.draining) || !queue_.Remove(*generation)) {
      continue;
    }
    generation->End(waits_on ? DrainedError() : prospect.end);
  }
}

void ServedModel::TellPositions() {
  std::map<std::string, int> next;
  for (const auto& generation : queue_.InOrder()) {
    generation->SetQueuePosition(next[generation->spec().accepted.plan_digest()]++);
  }
}

}  // namespace patchflow
