// Whose limit was passed, carried by a status.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace patchflow {

// Says of an error that `phase` took too long: "load", "warm_up", "text", "step", "decode",
// "encode". One that says so already says this instead.
absl::Status WithWatchdogPhase(absl::Status status, const std::string& phase);

// Empty if no limit was passed.
std::string WatchdogPhaseOf(const absl::Status& status);

}  // namespace patchflow
