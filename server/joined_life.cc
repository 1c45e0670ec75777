#include "server/joined_life.h"

#include <signal.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/log.h"

namespace patchflow {
namespace {

using worker::v1::DescribeResponse;

constexpr absl::Duration kTick = absl::Milliseconds(20);
constexpr absl::Duration kFirstBeat = absl::Seconds(60);
constexpr absl::Duration kOwnEnd = absl::Seconds(1);
constexpr uint64_t kAnyEpoch = std::numeric_limits<uint64_t>::max();
constexpr absl::Duration kPatience = absl::Seconds(10);  // Until missing workers are named.

std::string Show(absl::Duration duration) { return absl::FormatDuration(duration); }

// Its host as other workers' hosts know it: that by which the front end knows it.
std::string HostOf(const std::string& address) {
  if (address.rfind("unix:", 0) == 0) {
    return "127.0.0.1";
  }
  std::string host = address.substr(0, address.rfind(':'));
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return host;
}

}  // namespace

JoinedLife::JoinedLife(Parts parts, std::vector<Member> members)
    : parts_(std::move(parts)),
      members_(std::move(members)),
      pulses_(members_.size()),
      unreached_(members_.size()),
      watches_(members_.size()) {
  for (size_t i = 0; i < members_.size(); ++i) {
    clients_.push_back(parts_.connect(members_[i].address));
    Watch(i);
  }
}

JoinedLife::~JoinedLife() = default;

void JoinedLife::Watch(size_t member) {
  watches_[member] = nullptr;  // Ends the callbacks of the one before.
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    pulses_[member] = Pulse{};
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
    pulses_[member].beaten = true;
    pulses_[member].last = Clock::now();
    pulses_[member].beat = beat;
    whole = pulses_[0].beat;
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

std::vector<JoinedLife::Pulse> JoinedLife::Pulses() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return pulses_;
}

std::optional<absl::Duration> JoinedLife::SinceBeat(size_t member) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Pulse& pulse = pulses_[member];
  return pulse.beaten ? std::optional(absl::FromChrono(Clock::now() - pulse.last)) : std::nullopt;
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
    if (auto loss = Conclude(fault)) {
      return loss;
    }
    for (size_t i = 0; i < pulses.size(); ++i) {
      if (members_[i].process == nullptr && !pulses[i].beaten) {
        unreached_[i].Look(parts_.group, *clients_[i], members_[i].address);
      }
      if (pulses[i].ended) {
        Watch(i);
      }
    }
    if (parts_.stopped_within(kTick)) {
      return std::nullopt;
    }
  }
}

std::optional<JoinedLife::Fault> JoinedLife::FindFault(const std::vector<Pulse>& pulses) const {
  for (size_t i = 0; i < pulses.size(); ++i) {
    if (auto fault = FindFaultOf(i, pulses[i])) {
      return fault;
    }
  }
  if (greeted_ && parts_.group.SilentFor() > parts_.supervision.stall_timeout) {
    return Fault{absl::StrCat("the job said nothing for ", Show(parts_.supervision.stall_timeout)),
                 LossKind::kStalled, 0, false};
  }
  if (joined_ != nullptr && joined_->broken().has_value()) {
    return Fault{*joined_->broken(), LossKind::kJob, 0, false};
  }
  if (auto complaint = parts_.group.complaint(); greeted_ && complaint.has_value()) {
    return Fault{*complaint, LossKind::kJob, 0};
  }
  return std::nullopt;
}

std::optional<JoinedLife::Fault> JoinedLife::FindFaultOf(size_t member, const Pulse& pulse) const {
  const Supervision& rules = parts_.supervision;
  const bool formed = ownership_.epoch() != 0;
  const bool local = members_[member].process != nullptr;
  const auto now = Clock::now();
  const absl::Duration waited = absl::FromChrono(now - (formed && !local ? formed_at_ : started_));
  // One that is about to leave, or is not started yet, is waited for.
  const bool matters = local || formed;
  if (pulse.beaten && pulse.beat.state() == worker::v1::WORKER_STATE_FAILED &&
      (matters || pulse.beat.epoch() == 0)) {
    return Fault{absl::StrCat("it failed: ", pulse.beat.failure()), LossKind::kFailed, member};
  }
  if (matters && pulse.ended && pulse.beaten) {
    return Fault{"its connection ended", LossKind::kHeartbeat, member};
  }
  if (formed && pulse.beaten && pulse.beat.epoch() > ownership_.epoch()) {
    return Fault{"another front end has taken it over", LossKind::kHeartbeat, member, false};
  }
  const absl::Duration limit =
      greeted_ ? rules.heartbeat_timeout : std::max(5 * rules.heartbeat_timeout, absl::Seconds(2));
  if (matters && pulse.beaten && absl::FromChrono(now - pulse.last) > limit) {
    return Fault{absl::StrCat("no heartbeat for ", Show(limit)), LossKind::kHeartbeat, member,
                 false};
  }
  if (local && !pulse.beaten && waited > kFirstBeat) {
    return Fault{absl::StrCat("no sign of life for ", Show(kFirstBeat)), LossKind::kLoadTimeout,
                 member, false};
  }
  if (matters && !greeted_ && waited > rules.load_timeout) {
    return Fault{absl::StrCat("not ready after ", Show(rules.load_timeout)), LossKind::kLoadTimeout,
                 member, false};
  }
  return std::nullopt;
}

// A process that ended says more than that its connection did; one that a signal ended, more than
// those that noticed.
std::optional<JoinedLife::Loss> JoinedLife::Conclude(const std::optional<Fault>& fault) {
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
  return Loss{why, root.has_value() ? ended : fault->kind, member};
}

std::optional<JoinedLife::Fault> JoinedLife::Proceed(const std::vector<Pulse>& pulses) {
  if (greeted_) {
    return std::nullopt;
  }
  const auto all = [&](auto&& holds) { return std::all_of(pulses.begin(), pulses.end(), holds); };
  if (TellToLeave(pulses, parts_.lost_epoch)) {
    return std::nullopt;
  }
  if (!all([](const Pulse& pulse) { return pulse.beaten && !pulse.ended; })) {
    TellWhoIsMissing(pulses);
    return std::nullopt;
  }
  if (ownership_.epoch() != 0) {
    const uint64_t epoch = ownership_.epoch();
    const bool ready = all([epoch](const Pulse& pulse) {
      // One that is taken over may run the last job of its owner before.
      return pulse.beat.epoch() == epoch && pulse.beat.state() == worker::v1::WORKER_STATE_READY;
    });
    return ready ? Greet() : std::nullopt;
  }
  if (all([](const Pulse& pulse) {
        return pulse.beat.state() == worker::v1::WORKER_STATE_WAITING && pulse.beat.epoch() == 0;
      })) {
    NewEpoch(pulses);
    return Form();
  }
  const uint64_t epoch = pulses[0].beat.epoch();
  if (epoch > parts_.lost_epoch && all([epoch](const Pulse& pulse) {
        return pulse.beat.epoch() == epoch && pulse.beat.state() != worker::v1::WORKER_STATE_FAILED;
      })) {
    NewEpoch(pulses);
    return TakeOver();
  }
  TellToLeave(pulses, kAnyEpoch);
  return std::nullopt;
}

// Above all that any of them, or this process, has seen; front ends before this one counted the
// same way.
void JoinedLife::NewEpoch(const std::vector<Pulse>& pulses) {
  auto epoch = static_cast<uint64_t>(absl::ToUnixMicros(absl::Now()));
  epoch = std::max(epoch, parts_.lost_epoch + 1);
  for (const Pulse& pulse : pulses) {
    epoch = std::max(epoch, pulse.beat.epoch() + 1);
  }
  ownership_.set_owner(parts_.owner);
  ownership_.set_epoch(epoch);
  formed_at_ = Clock::now();
}

std::optional<JoinedLife::Fault> JoinedLife::Describe(std::vector<DescribeResponse>& infos) {
  first_ranks_.clear();
  int ranks = 0;
  for (size_t i = 0; i < clients_.size(); ++i) {
    auto info = clients_[i]->Describe(parts_.supervision.heartbeat_timeout);
    if (!info.ok()) {
      return Fault{absl::StrCat("it does not describe itself: ", info.status().message()),
                   LossKind::kFailed, i, false};
    }
    first_ranks_.push_back(ranks);
    ranks += info->ranks();
    infos.push_back(*std::move(info));
  }
  for (size_t i = 0; i < infos.size(); ++i) {
    if (infos[i].group_ranks() != ranks) {
      return Fault{absl::StrCat("it has --ranks ", infos[i].ranks(), " and --group-ranks ",
                                infos[i].group_ranks(), ", but the ", infos.size(),
                                " workers of the group have ", ranks, " ranks together"),
                   LossKind::kFailed, i, false};
    }
    if (infos[i].layout() != infos[0].layout()) {
      return Fault{absl::StrCat("its layout is ", infos[i].layout(), ", that of worker 0 ",
                                infos[0].layout()),
                   LossKind::kFailed, i, false};
    }
  }
  return std::nullopt;
}

std::optional<JoinedLife::Fault> JoinedLife::Form() {
  std::vector<DescribeResponse> infos;
  if (auto fault = Describe(infos)) {
    return fault;
  }
  worker::v1::MakeWorldRequest request;
  request.set_host(HostOf(members_[0].address));
  const auto made = clients_[0]->MakeWorld(request, parts_.supervision.heartbeat_timeout);
  if (!made.ok()) {
    return Fault{absl::StrCat("it makes no world: ", made.status().message()), LossKind::kFailed, 0,
                 false};
  }
  LogInfo("group joins", {{"group", parts_.group.config().name},
                          {"workers", static_cast<int64_t>(members_.size())},
                          {"epoch", static_cast<int64_t>(ownership_.epoch())}});
  return JoinAll(made->world_id());
}

std::optional<JoinedLife::Fault> JoinedLife::JoinAll(const std::string& world_id) {
  for (size_t i = 0; i < clients_.size(); ++i) {
    worker::v1::JoinRequest request;
    *request.mutable_ownership() = ownership_;
    request.set_world_id(world_id);
    request.set_first_rank(first_ranks_[i]);
    const absl::Status joined = clients_[i]->Join(request, parts_.supervision.heartbeat_timeout);
    if (!joined.ok()) {
      return Fault{absl::StrCat("it does not join: ", joined.message()), LossKind::kFailed, i,
                   false};
    }
  }
  return std::nullopt;
}

std::optional<JoinedLife::Fault> JoinedLife::TakeOver() {
  std::vector<DescribeResponse> infos;
  if (auto fault = Describe(infos)) {
    return fault;
  }
  for (size_t i = 0; i < clients_.size(); ++i) {
    worker::v1::JoinRequest request;
    *request.mutable_ownership() = ownership_;
    request.set_first_rank(first_ranks_[i]);
    request.set_previous_epoch(infos[0].ownership().epoch());
    const absl::Status taken = clients_[i]->Join(request, parts_.supervision.heartbeat_timeout);
    if (!taken.ok()) {
      return Fault{absl::StrCat("it can't be taken over: ", taken.message()), LossKind::kFailed, i,
                   false};
    }
  }
  LogInfo("group taken over", {{"group", parts_.group.config().name},
                               {"epoch", static_cast<int64_t>(ownership_.epoch())}});
  return std::nullopt;
}

std::optional<JoinedLife::Fault> JoinedLife::Greet() {
  std::vector<DescribeResponse> infos;
  if (auto fault = Describe(infos)) {
    return fault;
  }
  DescribeResponse whole = infos[0];
  for (size_t i = 0; i < infos.size(); ++i) {
    if (infos[i].plan_digest().empty() || !infos[i].has_model()) {
      return Fault{"it is ready but describes no model", LossKind::kFailed, i, false};
    }
    if (infos[i].plan_digest() != whole.plan_digest()) {
      return Fault{absl::StrCat("its plan is ", infos[i].plan_digest(), ", that of worker 0 ",
                                whole.plan_digest(),
                                ": model, build, device, dtype and layout must be the same"),
                   LossKind::kFailed, i, false};
    }
  }
  whole.set_ranks(whole.group_ranks());
  greeted_ = true;
  joined_ =
      std::make_shared<JoinedWorkers>(clients_, ownership_, parts_.supervision.heartbeat_timeout);
  LogInfo("group ready", {{"group", parts_.group.config().name},
                          {"workers", static_cast<int64_t>(members_.size())},
                          {"layout", whole.layout()},
                          {"dtype", whole.model().dtype()},
                          {"device", whole.model().device()},
                          {"load_seconds", absl::ToDoubleSeconds(FromProto(whole.load_time()))}});
  parts_.group.SetServing(joined_, std::move(whole));
  return std::nullopt;
}

bool JoinedLife::TellToLeave(const std::vector<Pulse>& pulses, uint64_t last_epoch) {
  worker::v1::LeaveRequest request;
  request.mutable_ownership()->set_owner(parts_.owner);
  request.set_why("its group is formed anew");
  bool any = false;
  for (size_t i = 0; i < clients_.size(); ++i) {
    const worker::v1::WatchResponse& beat = pulses[i].beat;
    if (!pulses[i].beaten || pulses[i].ended || beat.epoch() == 0 || beat.epoch() > last_epoch ||
        beat.state() == worker::v1::WORKER_STATE_FAILED) {
      continue;
    }
    request.mutable_ownership()->set_epoch(beat.epoch() + 1);
    const absl::Status told = clients_[i]->Leave(request, parts_.supervision.heartbeat_timeout);
    LogInfo("worker told to leave", {{"group", parts_.group.config().name},
                                     {"address", members_[i].address},
                                     {"answer", told.ToString()}});
    any = true;
  }
  return any;
}

void JoinedLife::TellWhoIsMissing(const std::vector<Pulse>& pulses) {
  if (told_missing_ || absl::FromChrono(Clock::now() - started_) < kPatience) {
    return;
  }
  told_missing_ = true;
  for (size_t i = 0; i < pulses.size(); ++i) {
    if (!pulses[i].beaten) {
      LogWarning("group waits for a worker",
                 {{"group", parts_.group.config().name}, {"address", members_[i].address}});
    }
  }
}

}  // namespace patchflow
