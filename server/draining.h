// What clients hear of a server that is about to end, or of weights that are.
#pragma once

#include "absl/status/status.h"

namespace patchflow {

// UNAVAILABLE / DRAINING, to be tried again after about a second, with another server.
absl::Status DrainingError();  // Of a request that is not taken.
absl::Status DrainedError();   // Of one that was taken and not finished.
// UNAVAILABLE / PLAN_CHANGED, of one that was taken for weights that were replaced before it was
// finished.
absl::Status ReplacedError();

}  // namespace patchflow
