#include "server/vital_signs.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/log.h"

namespace patchflow {
namespace {

constexpr absl::Duration kFirstBeat = absl::Seconds(60);
constexpr absl::Duration kLeastWhileLoading = absl::Seconds(2);

std::string Show(absl::Duration duration) { return absl::FormatDuration(duration); }

}  // namespace

std::optional<WorkerFault> FailureOf(const Pulse& pulse) {
  if (!pulse.beaten || pulse.beat.state() != worker::v1::WORKER_STATE_FAILED) {
    return std::nullopt;
  }
  WorkerFault fault{absl::StrCat("it failed: ", pulse.beat.failure()), LossKind::kFailed};
  if (pulse.beat.has_device_fault()) {
    fault.detail.device = pulse.beat.device_fault();
  }
  fault.detail.watchdog_phase = pulse.beat.watchdog_phase();
  fault.detail.nccl_errors = pulse.beat.nccl_errors();
  return fault;
}

std::optional<WorkerFault> SilenceOf(const Pulse& pulse, Clock::time_point started, bool ready,
                                     WorkerProcess* process, const Supervision& rules) {
  const absl::Duration silent =
      absl::FromChrono(Clock::now() - (pulse.beaten ? pulse.last : started));
  if (silent > rules.heartbeat_timeout && process != nullptr &&
      process->State().rfind('T', 0) == 0) {
    return WorkerFault{
        absl::StrCat("it is stopped, and sent no heartbeat for ", Show(rules.heartbeat_timeout)),
        LossKind::kHeartbeat, false};
  }
  if (!pulse.beaten) {
    return process != nullptr && silent > kFirstBeat
               ? std::optional(WorkerFault{absl::StrCat("no sign of life for ", Show(kFirstBeat)),
                                           LossKind::kLoadTimeout, false})
               : std::nullopt;
  }
  const absl::Duration limit = ready || process == nullptr
                                   ? rules.heartbeat_timeout
                                   : std::max(5 * rules.heartbeat_timeout, kLeastWhileLoading);
  if (silent > limit) {
    return WorkerFault{absl::StrCat("no heartbeat for ", Show(limit)), LossKind::kHeartbeat, false};
  }
  return std::nullopt;
}

void LogBeat(const std::string& worker, const Pulse& before, const worker::v1::WatchResponse& beat,
             const Supervision& rules) {
  if (!LogsDebug()) {
    return;
  }
  if (!before.beaten || before.beat.state() != beat.state()) {
    LogDebug("worker is", {{"worker", worker},
                           {"state", worker::v1::WorkerState_Name(beat.state())},
                           {"epoch", static_cast<int64_t>(beat.epoch())}});
  }
  const absl::Duration gap = absl::FromChrono(Clock::now() - before.last);
  if (before.beaten && gap > 2 * rules.heartbeat_interval) {
    LogDebug("heartbeat came late", {{"worker", worker}, {"seconds", absl::ToDoubleSeconds(gap)}});
  }
}

std::optional<WorkerFault> MismatchOf(const worker::v1::DescribeResponse& info,
                                      const GroupConfig& group) {
  const int batch_size = std::max(1, info.batch_size());
  if (batch_size == group.batch_size) {
    return std::nullopt;
  }
  return WorkerFault{
      absl::StrCat("its batch size is ", batch_size, " (--batch-size), the configuration's is ",
                   group.batch_size, " (batching, batch_size; 1: off)"),
      LossKind::kFailed, false};
}

std::string StalledPhaseOf(const worker::v1::WatchResponse& beat) {
  const auto oldest =
      std::max_element(beat.ranks().begin(), beat.ranks().end(), [](const auto& a, const auto& b) {
        return FromProto(a.step_age()) < FromProto(b.step_age());
      });
  if (oldest == beat.ranks().end()) {
    return "step";
  }
  switch (oldest->phase()) {
    case worker::v1::JOB_PHASE_TEXT:
      return "text";
    case worker::v1::JOB_PHASE_DECODE:
      return "decode";
    case worker::v1::JOB_PHASE_ENCODE:
      return "encode";
    default:
      return "step";
  }
}

}  // namespace patchflow
