// One life of a worker as its supervisor sees it: heartbeats, and what they amount to.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/log.h"
#include "server/supervisor.h"
#include "server/unreached.h"

namespace patchflow {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(20);
constexpr absl::Duration kOwnEnd = absl::Seconds(1);
// Between the end of a job and the heartbeat by which a worker says that it failed.
constexpr absl::Duration kReason = absl::Milliseconds(300);

std::string Show(absl::Duration duration) { return absl::FormatDuration(duration); }

bool IsLoaded(const Pulse& pulse) {
  // Not while it is busy with what an earlier front end ordered, or this one has given up.
  return pulse.beaten && pulse.beat.state() == worker::v1::WORKER_STATE_READY;
}

}  // namespace

std::unique_ptr<WatchCall> Supervisor::StartWatch(WorkerClient& client) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    pulse_.ended = false;
  }
  told_log_level_ = LogLevel();
  return client.Watch(
      options_.supervision.heartbeat_interval,
      [this](const worker::v1::WatchResponse& beat) {
        {
          std::lock_guard<std::mutex> lock(mutex_);
          LogBeat(group_.config().name, pulse_, beat, options_.supervision);
          pulse_.beaten = true;
          pulse_.last = Clock::now();
          pulse_.beat = beat;
        }
        changed_.notify_all();
        group_.Beat(beat);
      },
      [this](const absl::Status& /*status*/) {
        {
          std::lock_guard<std::mutex> lock(mutex_);
          pulse_.ended = true;
        }
        changed_.notify_all();
      });
}

std::optional<WorkerFault> Supervisor::Greet(const std::shared_ptr<WorkerClient>& client) {
  auto info = client->Describe(options_.supervision.heartbeat_timeout);
  if (!info.ok()) {
    return WorkerFault{absl::StrCat("it does not describe itself: ", info.status().message()),
                       LossKind::kFailed, false};
  }
  if (info->plan_digest().empty() || !info->has_model()) {
    return WorkerFault{"it is ready but describes no model", LossKind::kFailed, false};
  }
  if (auto mismatch = MismatchOf(*info, group_.config())) {
    return mismatch;
  }
  load_limits_.Record(*info);
  LogInfo("group ready", {{"group", group_.config().name},
                          {"layout", info->layout()},
                          {"dtype", info->model().dtype()},
                          {"device", info->model().device()},
                          {"load_seconds", absl::ToDoubleSeconds(FromProto(info->load_time()))}});
  group_.SetServing(client, *std::move(info));
  return std::nullopt;
}

std::optional<WorkerFault> Supervisor::FindFault(const Pulse& pulse, Clock::time_point started,
                                                 LoadProgress& progress,
                                                 WorkerProcess* process) const {
  if (auto failure = FailureOf(pulse)) {
    return failure;
  }
  const bool serving = group_.state() == GroupState::kServing;
  if (auto silence = SilenceOf(pulse, started, serving, process, options_.supervision)) {
    return silence;
  }
  progress.See(pulse.beat.state());
  if (auto late = progress.Lateness(load_limits_); late.has_value() && local_ && !serving) {
    return late;
  }
  if (auto fault = FindFaultOfJob(pulse)) {
    return fault;
  }
  if (pulse.ended && pulse.beaten) {
    return WorkerFault{"its connection ended", LossKind::kHeartbeat};
  }
  return std::nullopt;
}

std::optional<WorkerFault> Supervisor::FindFaultOfJob(const Pulse& pulse) const {
  const absl::Duration limit = options_.supervision.stall_timeout;
  if (group_.state() == GroupState::kServing && group_.SilentFor() > limit) {
    WorkerFault stalled{absl::StrCat("its job said nothing for ", Show(limit)), LossKind::kStalled,
                        false};
    stalled.detail.watchdog_phase = StalledPhaseOf(pulse.beat);
    return stalled;
  }
  if (auto complaint = group_.complaint()) {
    return WorkerFault{*complaint, LossKind::kJob};
  }
  return std::nullopt;
}

WorkerFault Supervisor::AwaitReason(WorkerFault fault, WorkerProcess* process) {
  const auto until = Clock::now() + ToClock(kReason);
  bool ended = false;
  while (!ended) {
    // Looked at first: what ends later has said all that it will say.
    ended = Clock::now() >= until || StoppedWithin(absl::Milliseconds(2)) ||
            (process != nullptr && process->Poll().has_value());
    std::lock_guard<std::mutex> lock(mutex_);
    if (auto failure = FailureOf(pulse_)) {
      failure->why = absl::StrCat(fault.why, "; ", failure->why);
      return *std::move(failure);
    }
    ended = ended || pulse_.ended;
  }
  return fault;
}

std::optional<Supervisor::Loss> Supervisor::Conclude(const std::optional<WorkerFault>& fault,
                                                     WorkerProcess* process) {
  const bool wait = process != nullptr && fault.has_value() && fault->ends_itself;
  const auto until = Clock::now() + ToClock(wait ? kOwnEnd : absl::ZeroDuration());
  const FaultDetail detail = fault.has_value() ? fault->detail : FaultDetail();
  do {
    if (auto end = process == nullptr ? std::nullopt : process->Poll()) {
      const bool said_so = fault.has_value() && fault->kind == LossKind::kFailed;
      return Loss{absl::StrCat("its process ended with ", end->text,
                               fault.has_value() ? absl::StrCat("; ", fault->why) : ""),
                  said_so ? LossKind::kFailed : LossKind::kProcessEnded, false, false, detail};
    }
  } while (Clock::now() < until && !StoppedWithin(absl::Milliseconds(2)));
  return fault.has_value() ? std::optional(Loss{fault->why, fault->kind, false, false, detail})
                           : std::nullopt;
}

std::optional<Supervisor::Loss> Supervisor::WatchOver(const std::string& address,
                                                      WorkerProcess* process) {
  const auto started = Clock::now();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    pulse_ = Pulse{};
  }
  std::shared_ptr<WorkerClient> client = options_.connect(address);
  auto watch = StartWatch(*client);
  bool greeted = false;
  LoadProgress progress(started);
  Unreached unreached;
  while (true) {
    Pulse pulse;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      if (stopping_) {
        return std::nullopt;
      }
      pulse = pulse_;
    }
    auto fault = FindFault(pulse, started, progress, process);
    if (!fault.has_value() && !greeted && IsLoaded(pulse)) {
      greeted = true;
      fault = Greet(client);
    }
    if (fault.has_value() && fault->kind == LossKind::kJob) {
      fault = AwaitReason(*std::move(fault), process);
    }
    if (auto loss = Conclude(fault, process)) {
      return loss;
    }
    if (!local_ && !pulse.beaten) {
      unreached.Look(group_, *client, address);
    }
    if ((pulse.ended && !pulse.beaten) || told_log_level_ != LogLevel()) {
      watch = nullptr;
      watch = StartWatch(*client);
    }
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(lock, ToClock(kTick), [&] {
      return stopping_ || pulse_.last != pulse.last || pulse_.ended != pulse.ended;
    });
  }
}

}  // namespace patchflow
