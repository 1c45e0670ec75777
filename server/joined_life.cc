#include "server/joined_life.h"

#include <signal.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/log.h"

namespace patchflow {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(20);
constexpr absl::Duration kOwnEnd = absl::Seconds(1);
// Between the end of a job and the heartbeats by which workers say that they failed.
constexpr absl::Duration kReason = absl::Milliseconds(300);

// Of all: how far the last of them is.
worker::v1::WorkerState LeastOf(const std::vector<Pulse>& pulses) {
  for (const auto state : {worker::v1::WORKER_STATE_FAILED, worker::v1::WORKER_STATE_WAITING,
                           worker::v1::WORKER_STATE_LOADING, worker::v1::WORKER_STATE_WARMING}) {
    if (std::any_of(pulses.begin(), pulses.end(),
                    [state](const Pulse& pulse) { return pulse.beat.state() == state; })) {
      return state;
    }
  }
  return pulses.front().beat.state();
}

}  // namespace

JoinedLife::JoinedLife(Parts parts, std::vector<Member> members)
    : parts_(std::move(parts)),
      members_(std::move(members)),
      pulses_(members_.size()),
      progress_(members_.size(), LoadProgress(started_)),
      unreached_(members_.size()),
      watches_(members_.size()) {
  for (size_t i = 0; i < members_.size(); ++i) {
    clients_.push_back(parts_.connect(members_[i].address));
    Watch(i, true);
  }
}

JoinedLife::~JoinedLife() = default;

void JoinedLife::Watch(size_t member, bool anew) {
  watches_[member] = nullptr;  // Ends the callbacks of the one before.
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (anew) {
      pulses_[member] = Pulse{};
    }
    pulses_[member].ended = false;
  }
  watches_[member] = clients_[member]->Watch(
      parts_.supervision.heartbeat_interval,
      [this, member](const worker::v1::WatchResponse& beat) { TakeBeat(member, beat); },
      [this, member](const absl::Status& /*status*/) {
        const std::lock_guard<std::mutex> lock(mutex_);
        pulses_[member].ended = true;
      });
}

// The group beats as long as all of its workers do.
void JoinedLife::TakeBeat(size_t member, const worker::v1::WatchResponse& beat) {
  worker::v1::WatchResponse whole;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    LogBeat(absl::StrCat(parts_.group.config().name, "/", member), pulses_[member], beat,
            parts_.supervision);
    pulses_[member].beaten = true;
    pulses_[member].last = Clock::now();
    pulses_[member].beat = beat;
    whole = pulses_[0].beat;
    whole.set_state(LeastOf(pulses_));
    for (size_t i = 0; i < pulses_.size(); ++i) {
      const Pulse& pulse = pulses_[i];
      if (!pulse.beaten || pulse.ended || pulse.beat.epoch() == 0 ||
          absl::FromChrono(Clock::now() - pulse.last) > parts_.supervision.heartbeat_timeout) {
        return;
      }
      if (i > 0) {
        whole.mutable_ranks()->MergeFrom(pulse.beat.ranks());
      }
    }
  }
  parts_.group.Beat(whole);
}

std::vector<Pulse> JoinedLife::Pulses() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return pulses_;
}

std::optional<absl::Duration> JoinedLife::SinceBeat(size_t member) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Pulse& pulse = pulses_[member];
  return pulse.beaten ? std::optional(absl::FromChrono(Clock::now() - pulse.last)) : std::nullopt;
}

std::vector<WorkerProcess*> JoinedLife::processes() {
  std::vector<WorkerProcess*> all;
  for (const Member& member : members_) {
    if (member.process != nullptr) {
      all.push_back(member.process.get());
    }
  }
  return all;
}

void JoinedLife::Stop(absl::Duration grace) {
  for (Member& member : members_) {
    if (member.process != nullptr) {
      member.process->Signal(SIGTERM);
    }
  }
  for (Member& member : members_) {
    if (member.process != nullptr) {
      member.process->Stop(grace);
    }
  }
}

std::optional<JoinedLife::Loss> JoinedLife::Run() {
  while (true) {
    const std::vector<Pulse> pulses = Pulses();
    auto fault = FindFault(pulses);
    if (!fault.has_value()) {
      fault = Proceed(pulses);
    }
    if (fault.has_value() && (fault->kind == LossKind::kJob ||
                              (fault->kind == LossKind::kFailed && fault->ends_itself))) {
      fault = AwaitReason(*std::move(fault));
    }
    if (auto loss = Conclude(fault)) {
      return loss;
    }
    for (size_t i = 0; i < pulses.size(); ++i) {
      if (members_[i].process == nullptr && !pulses[i].beaten) {
        unreached_[i].Look(parts_.group, *clients_[i], members_[i].address);
      }
      if (pulses[i].ended || told_log_level_ != LogLevel()) {
        Watch(i, pulses[i].ended);
      }
    }
    told_log_level_ = LogLevel();
    if (parts_.stopped_within(kTick)) {
      return std::nullopt;
    }
  }
}

std::optional<WorkerFault> JoinedLife::FindFault(const std::vector<Pulse>& pulses) {
  for (size_t i = 0; i < pulses.size(); ++i) {
    if (auto fault = FindFaultOf(i, pulses[i])) {
      fault->member = i;
      return fault;
    }
  }
  const absl::Duration limit = parts_.supervision.stall_timeout;
  if (greeted_ && parts_.group.SilentFor() > limit) {
    WorkerFault stalled{absl::StrCat("the job said nothing for ", absl::FormatDuration(limit)),
                        LossKind::kStalled, false};
    stalled.detail.watchdog_phase = StalledPhaseOf(parts_.group.last_beat());
    return stalled;
  }
  if (joined_ != nullptr && joined_->broken().has_value()) {
    return WorkerFault{*joined_->broken(), LossKind::kJob, false};
  }
  if (auto complaint = parts_.group.complaint(); greeted_ && complaint.has_value()) {
    return WorkerFault{*complaint, LossKind::kJob};
  }
  return std::nullopt;
}

// One of another host that is about to leave, or is not started yet, is waited for.
std::optional<WorkerFault> JoinedLife::FindFaultOf(size_t member, const Pulse& pulse) {
  const bool formed = ownership_.epoch() != 0;
  const bool local = members_[member].process != nullptr;
  const bool matters = local || formed;
  if (auto failure = FailureOf(pulse);
      failure.has_value() && (matters || pulse.beat.epoch() == 0 || failure->detail.device)) {
    return failure;
  }
  if (!matters) {
    return std::nullopt;
  }
  if (pulse.ended && pulse.beaten) {
    return WorkerFault{"its connection ended", LossKind::kHeartbeat};
  }
  if (formed && pulse.beaten && pulse.beat.epoch() > ownership_.epoch()) {
    return WorkerFault{"another front end has taken it over", LossKind::kHeartbeat, false};
  }
  if (auto silence = SilenceOf(pulse, started_, greeted_, process(member), parts_.supervision)) {
    return silence;
  }
  progress_[member].See(pulse.beat.state());
  if (greeted_) {
    return std::nullopt;
  }
  if (!formed) {  // What is learned counts from when they join.
    return progress_[member].Lateness(LoadLimits(parts_.supervision));
  }
  return progress_[member].Lateness(parts_.load_limits);
}

// A worker may say only after its job's end why it failed, and another one than the one that was
// noticed first: whose device is at fault comes before all, then whoever says why.
WorkerFault JoinedLife::AwaitReason(WorkerFault fault) {
  const auto until = Clock::now() + ToClock(kReason);
  bool over = fault.detail.device.has_value();
  while (!over) {
    over = Clock::now() >= until || parts_.stopped_within(absl::Milliseconds(2));
    bool all_told = true;
    const std::vector<Pulse> pulses = Pulses();
    for (size_t i = 0; i < pulses.size(); ++i) {
      auto failure = FailureOf(pulses[i]);
      all_told = all_told && (failure.has_value() || pulses[i].ended);
      if (failure.has_value() &&
          (failure->detail.device.has_value() || fault.kind != LossKind::kFailed)) {
        failure->why = absl::StrCat(failure->why, "; ", fault.why);
        failure->member = i;
        fault = *std::move(failure);
      }
    }
    over = over || all_told || fault.detail.device.has_value();
  }
  return fault;
}

// A process that ended says more than that its connection did; one that a signal ended, more than
// those that noticed.
std::optional<JoinedLife::Loss> JoinedLife::Conclude(const std::optional<WorkerFault>& fault) {
  const auto end_of = [this](size_t member) {
    WorkerProcess* const process = members_[member].process.get();
    return process == nullptr ? std::nullopt : process->Poll();
  };
  if (fault.has_value() && fault->ends_itself && process(fault->member) != nullptr) {
    const auto until = Clock::now() + ToClock(kOwnEnd);
    while (!end_of(fault->member).has_value() && Clock::now() < until &&
           !parts_.stopped_within(absl::Milliseconds(2))) {
    }
  }
  std::optional<size_t> root;
  for (size_t i = 0; i < members_.size(); ++i) {
    const auto end = end_of(i);
    const bool killed = end.has_value() && end->text.rfind("signal", 0) == 0;
    if (killed || (end.has_value() && (!fault.has_value() || fault->member == i))) {
      root = i;
      if (killed) {
        break;
      }
    }
  }
  if (!root.has_value() && !fault.has_value()) {
    return std::nullopt;
  }
  const size_t member = root.value_or(fault.has_value() ? fault->member : 0);
  std::string why = absl::StrCat("worker ", member, " of ", members_.size(), " (",
                                 members_[member].address, "): ");
  if (root.has_value()) {
    absl::StrAppend(&why, "its process ended with ", end_of(member)->text,
                    fault.has_value() ? "; " : "");
  }
  if (fault.has_value()) {
    absl::StrAppend(&why,
                    fault->member == member ? "" : absl::StrCat("worker ", fault->member, ": "),
                    fault->why);
  }
  const bool failed = fault.has_value() && fault->kind == LossKind::kFailed;
  const LossKind ended = failed ? LossKind::kFailed : LossKind::kProcessEnded;
  return Loss{why, root.has_value() ? ended : fault->kind, member,
              fault.has_value() ? fault->detail : FaultDetail()};
}

}  // namespace patchflow
