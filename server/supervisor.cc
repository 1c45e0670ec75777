#include "server/supervisor.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "server/log.h"
#include "server/unreached.h"

namespace patchflow {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(20);
constexpr absl::Duration kGrace = absl::Seconds(2);
constexpr absl::Duration kOwnEnd = absl::Seconds(1);
constexpr absl::Duration kMaxBackOff = absl::Minutes(1);
// Between the end of a job and the heartbeat by which a worker says that it failed.
constexpr absl::Duration kReason = absl::Milliseconds(300);
constexpr absl::Duration kLookForResume = absl::Milliseconds(100);

std::string Show(absl::Duration duration) { return absl::FormatDuration(duration); }

// The command line of one of several processes of this host that share a group's ranks.
std::vector<std::string> ShareCommand(const std::string& binary, const GroupConfig& group,
                                      int index, const std::string& socket,
                                      const Supervision& supervision,
                                      const std::string& fault_orders) {
  GroupConfig share = group;
  share.ranks = group.ranks / group.processes;
  share.first_gpu = group.first_gpu + index * share.ranks;
  if (share.threads == 0) {  // A worker thinks that it has the host for itself.
    share.threads =
        std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / group.ranks);
  }
  std::vector<std::string> command =
      WorkerCommand(binary, share, socket, supervision, fault_orders);
  command.emplace_back("--group-ranks");
  command.push_back(absl::StrCat(group.ranks));
  return command;
}

bool IsLoaded(const Pulse& pulse) {
  return pulse.beaten && pulse.beat.state() != worker::v1::WORKER_STATE_LOADING &&
         pulse.beat.state() != worker::v1::WORKER_STATE_WARMING;
}

}  // namespace

Supervisor::Supervisor(Group& group, Options options)
    : group_(group),
      options_(std::move(options)),
      local_(group.config().local()),
      load_limits_(options_.supervision),
      thread_([this] { Run(); }) {}

Supervisor::~Supervisor() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

bool Supervisor::StoppedWithin(absl::Duration wait) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, ToClock(wait), [this] { return stopping_; });
  return stopping_;
}

void Supervisor::Count(const Loss& loss) {
  if (!loss.detail.watchdog_phase.empty()) {
    group_.CountWatchdogTrip(loss.detail.watchdog_phase);
  }
  group_.CountNcclErrors(loss.detail.nccl_errors);
}

bool Supervisor::AwaitResume() {
  while (group_.state() == GroupState::kFailed) {
    if (StoppedWithin(kLookForResume)) {
      return false;
    }
  }
  LogInfo("a group is resumed", {{"group", group_.config().name}});
  judge_ = DeviceJudge();
  return true;
}

void Supervisor::Run() {
  const Supervision& rules = options_.supervision;
  while (auto loss = RunOnce()) {
    Count(*loss);
    group_.SetLost(loss->why, loss->kind);
    const int failures = group_.failures();
    LogError(
        "worker lost",
        {{"group", group_.config().name}, {"why", loss->why}, {"failures_in_a_row", failures}});
    if (loss->device) {
      LogError("a group is given up for its device",
               {{"group", group_.config().name}, {"why", loss->why}});
      group_.SetFailed(loss->why, true);
      if (!AwaitResume()) {
        return;
      }
      continue;
    }
    const bool at_once = loss->refused || (options_.trial && !group_.ever_served());
    if (local_ && (at_once || failures >= rules.max_failures)) {
      const std::string why =
          at_once ? loss->why : absl::StrCat(failures, " failures in a row, the last: ", loss->why);
      group_.SetFailed(why);
      options_.on_given_up(why);
      return;
    }
    absl::Duration pause = absl::ZeroDuration();
    if (failures > 1) {
      pause = std::min(kMaxBackOff, rules.back_off * (1 << std::min(failures - 2, 20)));
    }
    if (!local_) {
      pause = std::max(pause, kTick);
    }
    if (StoppedWithin(pause)) {
      return;
    }
  }
}

Supervision Supervisor::RulesOfThisLife() const {
  Supervision rules = options_.supervision;
  rules.load_timeout = load_limits_.Load();
  return rules;
}

std::optional<Supervisor::Loss> Supervisor::RunOnce() {
  if (group_.config().members() > 1) {
    return RunJoined();
  }
  if (!local_) {
    auto loss = WatchOver(group_.config().workers.front(), nullptr);
    if (loss.has_value() &&
        (loss->detail.device.has_value() || group_.state() == GroupState::kServing)) {
      Examine(*loss, nullptr, "");
    }
    return loss;
  }
  const std::string socket = absl::StrCat(options_.socket, ".", ++lives_);
  auto process = WorkerProcess::Start(WorkerCommand(options_.binary, group_.config(), socket,
                                                    RulesOfThisLife(), options_.fault_orders));
  if (!process.ok()) {
    return Loss{std::string(process.status().message())};
  }
  LogInfo("worker started", {{"group", group_.config().name}, {"pid", (*process)->pid()}});
  auto loss = WatchOver(absl::StrCat("unix:", socket), process->get());
  if (!loss.has_value()) {
    (*process)->Stop(kGrace);
  } else {
    Examine(*loss, process->get(), RecorderFile(socket));
  }
  std::remove(RecorderFile(socket).c_str());
  return loss;
}

void Supervisor::Examine(Loss& loss, WorkerProcess* process, const std::string& recorder) {
  const auto end = process == nullptr ? std::nullopt : process->Poll();
  loss.refused = end.has_value() && end->refused && !group_.ever_served();
  if (const std::string why = judge_.Judge(end, loss.detail.device, group_.failures());
      !why.empty()) {
    loss.why = absl::StrCat(why, "; ", loss.why);
    loss.kind = LossKind::kSickDevice;
    loss.refused = false;
    loss.device = true;
  }
  if (options_.black_boxes == nullptr) {
    return;
  }
  Pulse pulse;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    pulse = pulse_;
  }
  const std::string box = options_.black_boxes->Record(
      group_, {loss.why, loss.kind,
               pulse.beaten ? absl::FromChrono(Clock::now() - pulse.last) : absl::Seconds(-1),
               recorder, process});
  LogInfo("black box written", {{"group", group_.config().name}, {"path", box}});
}

std::string Supervisor::SocketOf(int member) const {
  return absl::StrCat(options_.socket, ".", lives_, ".", member);
}

absl::StatusOr<std::vector<JoinedLife::Member>> Supervisor::StartMembers() {
  const GroupConfig& config = group_.config();
  std::vector<JoinedLife::Member> members;
  ++lives_;
  for (int i = 0; i < config.members(); ++i) {
    if (!local_) {
      members.push_back({config.workers[static_cast<size_t>(i)], nullptr});
      continue;
    }
    const std::string socket = SocketOf(i);
    auto process = WorkerProcess::Start(
        ShareCommand(options_.binary, config, i, socket, RulesOfThisLife(), options_.fault_orders));
    if (!process.ok()) {
      return process.status();
    }
    LogInfo("worker started", {{"group", config.name}, {"member", i}, {"pid", (*process)->pid()}});
    members.push_back({absl::StrCat("unix:", socket), *std::move(process)});
  }
  return members;
}

std::optional<Supervisor::Loss> Supervisor::RunJoined() {
  auto members = StartMembers();
  if (!members.ok()) {
    return Loss{std::string(members.status().message())};
  }
  JoinedLife life({group_, options_.supervision, options_.connect, options_.owner, load_limits_,
                   lost_epoch_, [this](absl::Duration wait) { return StoppedWithin(wait); }},
                  *std::move(members));
  const auto lost = life.Run();
  lost_epoch_ = std::max(lost_epoch_, life.epoch());
  if (!lost.has_value()) {
    life.Stop(kGrace);
    return std::nullopt;
  }
  Loss loss{lost->why, lost->kind, false, false, lost->detail};
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto since = life.SinceBeat(lost->member);
    pulse_ = Pulse{};
    pulse_.beaten = since.has_value();
    pulse_.last = Clock::now() - ToClock(since.value_or(absl::ZeroDuration()));
  }
  if (local_ || loss.detail.device.has_value() || group_.state() == GroupState::kServing) {
    Examine(loss, life.process(lost->member),
            local_ ? RecorderFile(SocketOf(static_cast<int>(lost->member))) : "");
  }
  for (int i = 0; local_ && i < group_.config().members(); ++i) {
    std::remove(RecorderFile(SocketOf(i)).c_str());
  }
  return loss;
}

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
