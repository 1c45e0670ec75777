#include "server/supervisor.h"

#include <signal.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/log.h"

namespace patchflow {
namespace {

constexpr absl::Duration kLookAgain = absl::Milliseconds(20);  // At a worker of another host.
constexpr absl::Duration kGrace = absl::Seconds(2);
constexpr absl::Duration kMaxBackOff = absl::Minutes(1);
constexpr absl::Duration kLookForResume = absl::Milliseconds(100);
// From SIGKILL until it is told that the worker is still there, and until another one starts.
constexpr absl::Duration kSlowEnd = absl::Seconds(2);
constexpr absl::Duration kOldWorker = absl::Minutes(1);

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

std::string IdsOf(const std::vector<std::shared_ptr<Generation>>& generations) {
  return absl::StrJoin(generations, ",", [](std::string* ids, const auto& generation) {
    ids->append(generation->spec().request_id);
  });
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

void Supervisor::Lose(const Loss& loss) {
  Count(loss);
  const std::string at_work = IdsOf(group_.AtWork());
  group_.SetLost(loss.why, loss.kind);
  LogError("worker lost", {{"group", group_.config().name},
                           {"why", loss.why},
                           {"failures_in_a_row", group_.failures()},
                           {"request_ids", at_work},
                           {"last_request_id", group_.last_request_id()}});
}

void Supervisor::AwaitEnds(const std::vector<WorkerProcess*>& processes) {
  for (WorkerProcess* process : processes) {
    process->Signal(SIGKILL);
  }
  const auto begin = Clock::now();
  bool told = false;
  for (WorkerProcess* process : processes) {
    while (!process->Kill(absl::Milliseconds(20)) && !StoppedWithin(absl::ZeroDuration())) {
      const auto waited = Clock::now() - begin;
      if (waited > ToClock(kOldWorker)) {
        LogError("a lost worker does not end: the next starts beside it",
                 {{"group", group_.config().name}, {"pid", process->pid()}});
        break;
      }
      if (!told && waited > ToClock(kSlowEnd)) {
        told = true;
        LogWarning("a lost worker does not end", {{"group", group_.config().name},
                                                  {"pid", process->pid()},
                                                  {"state", process->State()}});
      }
    }
  }
}

void Supervisor::Run() {
  const Supervision& rules = options_.supervision;
  while (auto loss = RunOnce()) {
    const int failures = group_.failures();
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
      pause = std::max(pause, kLookAgain);
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
    if (loss.has_value()) {
      Lose(*loss);
    }
    return loss;
  }
  const std::string socket = absl::StrCat(options_.socket, ".", ++lives_);
  auto process = WorkerProcess::Start(WorkerCommand(options_.binary, group_.config(), socket,
                                                    RulesOfThisLife(), options_.fault_orders));
  if (!process.ok()) {
    return NotStarted(process.status());
  }
  LogInfo("worker started", {{"group", group_.config().name}, {"pid", (*process)->pid()}});
  auto loss = WatchOver(absl::StrCat("unix:", socket), process->get());
  if (!loss.has_value()) {
    (*process)->Stop(kGrace);
  } else {
    Examine(*loss, process->get(), RecorderFile(socket));
    Lose(*loss);
    AwaitEnds({process->get()});
  }
  std::remove(RecorderFile(socket).c_str());
  return loss;
}

Supervisor::Loss Supervisor::NotStarted(const absl::Status& status) {
  const Loss loss{std::string(status.message())};
  Lose(loss);
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
    return NotStarted(members.status());
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
  Lose(loss);
  if (local_) {
    AwaitEnds(life.processes());
  }
  for (int i = 0; local_ && i < group_.config().members(); ++i) {
    std::remove(RecorderFile(SocketOf(i)).c_str());
  }
  return loss;
}

}  // namespace patchflow
