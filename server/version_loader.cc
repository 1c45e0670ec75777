#include "server/version_loader.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "server/draining.h"
#include "server/errors.h"
#include "server/log.h"
#include "server/memory_room.h"
#include "server/weight_files.h"

namespace patchflow {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(20);
constexpr absl::Duration kLoadGrace = absl::Seconds(5);  // A supervisor says better what is late.

google::protobuf::Timestamp Now() {
  google::protobuf::Timestamp now;
  now.set_seconds(absl::ToUnixSeconds(absl::Now()));
  return now;
}

std::set<std::string> PlansOf(const std::vector<Group*>& groups) {
  std::set<std::string> plans;
  for (const Group* group : groups) {
    if (auto info = group->info()) {
      plans.insert(info->plan_digest());
    }
  }
  return plans;
}

absl::Status Refused(const std::string& why) {
  return MakeError(absl::StatusCode::kFailedPrecondition, reason::kLoadRefused, why);
}

absl::Status FolderError(const std::string& why) {
  return FieldErrors(reason::kInvalidRequest, {{"folder", why}});
}

}  // namespace

VersionLoader::VersionLoader(Parts parts) : parts_(std::move(parts)) {}

VersionLoader::~VersionLoader() { Stop(); }

void VersionLoader::Stop() {
  std::vector<std::thread> threads;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    for (auto& [model, load] : loads_) {
      if (load.thread.joinable()) {
        threads.push_back(std::move(load.thread));
      }
    }
  }
  changed_.notify_all();
  for (std::thread& thread : threads) {
    thread.join();
  }
}

absl::Status VersionLoader::Check(ServedModel& model, const std::string& folder) const {
  std::vector<GroupMemory> memory;
  int64_t old_bytes = 0;
  for (const Group* group : model.groups()) {
    const GroupConfig& config = group->config();
    if (!config.local()) {
      return Refused(absl::StrCat("group ", config.name, " has workers that this server did not ",
                                  "start (", absl::StrJoin(config.workers, ", "),
                                  "): start them with the new weights where they run"));
    }
    const worker::v1::WatchResponse beat = group->last_beat();
    memory.push_back({config.name, {beat.ranks().begin(), beat.ranks().end()}});
    auto old = CheckWeightFiles(config.model);
    old_bytes = std::max(old_bytes, old.ok() ? old->bytes : 0);
  }
  if (folder.empty() || !std::filesystem::path(folder).is_absolute()) {
    return FolderError(absl::StrCat("'", CutText(folder, 128), "' is no absolute path"));
  }
  auto weights = CheckWeightFiles(folder);
  if (!weights.ok()) {
    return FolderError(std::string(weights.status().message()));
  }
  return CheckRoom(memory, old_bytes, weights->bytes, parts_.host_memory());
}

absl::StatusOr<admin::v1::ModelLoad> VersionLoader::Begin(ServedModel& model,
                                                          const std::string& folder) {
  if (absl::Status status = Check(model, folder); !status.ok()) {
    return status;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  if (stopping_) {
    return Refused("the server is shutting down");
  }
  Load& load = loads_[model.name()];
  if (load.busy) {
    return Refused(absl::StrCat("model ", model.name(), " is still being replaced by ",
                                load.told.folder(), " (",
                                admin::v1::LoadState_Name(load.told.state()), ")"));
  }
  if (load.thread.joinable()) {
    load.thread.join();  // It is over.
  }
  load.told.Clear();
  load.told.set_state(admin::v1::LOAD_STATE_LOADING);
  load.told.set_folder(folder);
  *load.told.mutable_start_time() = Now();
  for (const std::string& plan : PlansOf(model.groups())) {
    load.told.add_old_plan_digests(plan);
  }
  load.busy = true;
  load.thread = std::thread([this, &model, folder] { Run(model, folder); });
  LogInfo("a model's new version is loaded", {{"model", model.name()}, {"folder", folder}});
  return load.told;
}

std::optional<admin::v1::ModelLoad> VersionLoader::Progress(ServedModel& model) const {
  std::optional<admin::v1::ModelLoad> told;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = loads_.find(model.name());
    if (found == loads_.end() || found->second.told.folder().empty()) {
      return std::nullopt;
    }
    told = found->second.told;
  }
  if (told->state() == admin::v1::LOAD_STATE_DRAINING) {
    size_t left = 0;
    for (const std::string& plan : told->old_plan_digests()) {
      left += model.queue().SizeOf(plan);
    }
    for (const Group* group : model.leaving()) {
      left += group->AtWork().size();
    }
    told->set_old_generations(static_cast<int>(left));
  }
  return told;
}

void VersionLoader::Run(ServedModel& model, const std::string& folder) {
  const std::vector<Group*> leaving = model.groups();
  std::vector<Group*> coming;
  for (const Group* group : leaving) {
    GroupConfig config = group->config();
    config.model = folder;
    coming.push_back(&parts_.fleet.Add(parts_.make(config, *group), group));
  }
  for (Group* group : coming) {
    parts_.fleet.Supervise(*group, true);
  }
  const std::string failure = WaitReady(model, coming);
  if (failure.empty()) {
    Replace(model, leaving, coming);
  } else {
    for (Group* group : coming) {
      parts_.fleet.End(*group);
    }
  }
  Conclude(model, failure);
}

std::string VersionLoader::WaitReady(const ServedModel& model, const std::vector<Group*>& coming) {
  const auto settled = [&coming] {
    size_t serving = 0;
    for (const Group* group : coming) {
      const GroupState state = group->state();
      if (state == GroupState::kFailed) {
        return true;
      }
      serving += state == GroupState::kServing ? 1 : 0;
    }
    return serving == coming.size();
  };
  const bool in_time = WaitFor(Clock::now() + ToClock(parts_.load_timeout + kLoadGrace), settled);
  for (const Group* group : coming) {
    if (group->state() == GroupState::kFailed) {
      return absl::StrCat("group ", group->config().name, ": ", group->failure());
    }
  }
  if (!in_time) {
    std::lock_guard<std::mutex> lock(mutex_);
    return stopping_ ? "the server is shutting down"
                     : absl::StrCat("not ready after ", absl::FormatDuration(parts_.load_timeout));
  }
  const std::set<std::string> old = PlansOf(model.groups());
  for (const std::string& plan : PlansOf(coming)) {
    if (old.count(plan) != 0) {
      return absl::StrCat("these weights are served already: plan ", plan);
    }
  }
  return "";
}

void VersionLoader::Replace(ServedModel& model, const std::vector<Group*>& leaving,
                            const std::vector<Group*>& coming) {
  const std::weak_ptr<const void> admitting = model.Switch(coming);
  for (Group* group : coming) {
    parts_.fleet.Dispatch(*group);
  }
  const std::set<std::string> plans = PlansOf(coming);
  LogInfo("a model's new version serves",
          {{"model", model.name()}, {"plans", absl::StrJoin(plans, ",")}});
  Tell(model, [&plans](admin::v1::ModelLoad& told) {
    told.set_state(admin::v1::LOAD_STATE_DRAINING);
    for (const std::string& plan : plans) {
      told.add_new_plan_digests(plan);
    }
  });
  const auto until = Clock::now() + ToClock(parts_.drain_timeout);
  bool drained = WaitFor(until, [&] { return admitting.expired(); });
  for (Group* group : leaving) {
    group->Retire();
  }
  model.queue().Interrupt();
  drained = drained && WaitFor(until, [&] {
              return std::all_of(leaving.begin(), leaving.end(), [](const Group* group) {
                return group->drained() || group->state() == GroupState::kFailed;
              });
            });
  const int left = drained ? 0 : EndLeft(model, leaving);
  for (Group* group : leaving) {
    parts_.fleet.End(*group);
  }
  const int late = EndLeft(model, leaving);
  model.DropLeaving();
  Tell(model, [&](admin::v1::ModelLoad& told) { told.set_ended_unfinished(left + late); });
}

int VersionLoader::EndLeft(ServedModel& model, const std::vector<Group*>& leaving) {
  int ended = 0;
  // First what waits: the dispatcher would take it as soon as what runs has ended.
  for (const std::string& plan : PlansOf(leaving)) {
    for (const auto& generation : model.queue().Take(plan)) {
      generation->End(ReplacedError());
      ++ended;
    }
  }
  for (const Group* group : leaving) {
    for (const auto& generation : group->AtWork()) {
      generation->End(ReplacedError());
      ++ended;
    }
  }
  return ended;
}

bool VersionLoader::WaitFor(Clock::time_point until, const std::function<bool()>& done) {
  while (!done()) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (changed_.wait_for(lock, kPoll, [this] { return stopping_; }) || Clock::now() >= until) {
      return false;
    }
  }
  return true;
}

void VersionLoader::Tell(const ServedModel& model,
                         const std::function<void(admin::v1::ModelLoad&)>& change) {
  std::lock_guard<std::mutex> lock(mutex_);
  change(loads_.at(model.name()).told);
}

void VersionLoader::Conclude(const ServedModel& model, const std::string& failure) {
  if (!failure.empty()) {
    LogError("a model's new version is not served", {{"model", model.name()}, {"why", failure}});
  }
  std::lock_guard<std::mutex> lock(mutex_);
  Load& load = loads_.at(model.name());
  load.told.set_state(failure.empty() ? admin::v1::LOAD_STATE_DONE : admin::v1::LOAD_STATE_FAILED);
  load.told.set_failure(failure);
  *load.told.mutable_end_time() = Now();
  load.busy = false;
  if (failure.empty()) {
    LogInfo("a model's old version has ended",
            {{"model", model.name()},
             {"ended_unfinished", static_cast<int64_t>(load.told.ended_unfinished())}});
  }
}

}  // namespace patchflow
