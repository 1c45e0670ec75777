#include "worker/watchdog_phase.h"

#include "absl/strings/cord.h"

namespace patchflow {
namespace {

constexpr char kUrl[] = "patchflow/watchdog_phase";

}  // namespace

absl::Status WithWatchdogPhase(absl::Status status, const std::string& phase) {
  status.SetPayload(kUrl, absl::Cord(phase));
  return status;
}

std::string WatchdogPhaseOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kUrl);
  return payload.has_value() ? std::string(*payload) : "";
}

}  // namespace patchflow
