// How the workers of a JoinedLife come together.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/joined_life.h"
#include "server/log.h"

namespace patchflow {
namespace {

using worker::v1::DescribeResponse;

constexpr uint64_t kAnyEpoch = std::numeric_limits<uint64_t>::max();
constexpr absl::Duration kPatience = absl::Seconds(10);  // Until missing workers are named.

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

WorkerFault Refused(size_t member, const std::string& why) {
  return {why, LossKind::kFailed, false, {}, member};
}

}  // namespace

std::optional<WorkerFault> JoinedLife::Proceed(const std::vector<Pulse>& pulses) {
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
  progress_.assign(members_.size(), LoadProgress(Clock::now()));
}

std::optional<WorkerFault> JoinedLife::Describe(std::vector<DescribeResponse>& infos) {
  first_ranks_.clear();
  int ranks = 0;
  for (size_t i = 0; i < clients_.size(); ++i) {
    auto info = clients_[i]->Describe(parts_.supervision.heartbeat_timeout);
    if (!info.ok()) {
      return Refused(i, absl::StrCat("it does not describe itself: ", info.status().message()));
    }
    first_ranks_.push_back(ranks);
    ranks += info->ranks();
    infos.push_back(*std::move(info));
  }
  for (size_t i = 0; i < infos.size(); ++i) {
    if (infos[i].group_ranks() != ranks) {
      return Refused(i, absl::StrCat("it has --ranks ", infos[i].ranks(), " and --group-ranks ",
                                     infos[i].group_ranks(), ", but the ", infos.size(),
                                     " workers of the group have ", ranks, " ranks together"));
    }
    if (auto mismatch = MismatchOf(infos[i], parts_.group.config())) {
      return Refused(i, mismatch->why);
    }
    if (infos[i].layout() != infos[0].layout()) {
      return Refused(i, absl::StrCat("its layout is ", infos[i].layout(), ", that of worker 0 ",
                                     infos[0].layout()));
    }
  }
  return std::nullopt;
}

std::optional<WorkerFault> JoinedLife::Form() {
  std::vector<DescribeResponse> infos;
  if (auto fault = Describe(infos)) {
    return fault;
  }
  worker::v1::MakeWorldRequest request;
  request.set_host(HostOf(members_[0].address));
  const auto made = clients_[0]->MakeWorld(request, parts_.supervision.heartbeat_timeout);
  if (!made.ok()) {
    return Refused(0, absl::StrCat("it makes no world: ", made.status().message()));
  }
  LogInfo("group joins", {{"group", parts_.group.config().name},
                          {"workers", static_cast<int64_t>(members_.size())},
                          {"epoch", static_cast<int64_t>(ownership_.epoch())}});
  return JoinAll(made->world_id());
}

std::optional<WorkerFault> JoinedLife::JoinAll(const std::string& world_id) {
  for (size_t i = 0; i < clients_.size(); ++i) {
    worker::v1::JoinRequest request;
    *request.mutable_ownership() = ownership_;
    request.set_world_id(world_id);
    request.set_first_rank(first_ranks_[i]);
    const absl::Status joined = clients_[i]->Join(request, parts_.supervision.heartbeat_timeout);
    if (!joined.ok()) {
      return Refused(i, absl::StrCat("it does not join: ", joined.message()));
    }
  }
  return std::nullopt;
}

std::optional<WorkerFault> JoinedLife::TakeOver() {
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
      return Refused(i, absl::StrCat("it can't be taken over: ", taken.message()));
    }
  }
  LogInfo("group taken over", {{"group", parts_.group.config().name},
                               {"epoch", static_cast<int64_t>(ownership_.epoch())}});
  return std::nullopt;
}

std::optional<WorkerFault> JoinedLife::Greet() {
  std::vector<DescribeResponse> infos;
  if (auto fault = Describe(infos)) {
    return fault;
  }
  DescribeResponse whole = infos[0];
  for (size_t i = 0; i < infos.size(); ++i) {
    if (infos[i].plan_digest().empty() || !infos[i].has_model()) {
      return Refused(i, "it is ready but describes no model");
    }
    if (infos[i].plan_digest() != whole.plan_digest()) {
      return Refused(i, absl::StrCat("its plan is ", infos[i].plan_digest(), ", that of worker 0 ",
                                     whole.plan_digest(),
                                     ": model, build, device, dtype and layout must be the same"));
    }
  }
  whole.set_ranks(whole.group_ranks());
  parts_.load_limits.Record(whole);
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
