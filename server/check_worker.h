// Of patchflow-server --check: what the worker program itself says to a group.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "server/check.h"
#include "server/config.h"

namespace patchflow {

struct WorkerOpinion {
  CheckRow row;
  // False if it refuses layout, sizes or model, so that nothing follows from them.
  bool fits = true;
};

// Starts `binary` with the command line of a group that is started here, with --check behind it,
// and waits for its answer for at most `limit`. Of several processes the one with the last GPUs is
// asked. A warning if it doesn't answer in time; it is killed then.
WorkerOpinion AskWorker(const std::string& binary, const GroupConfig& group,
                        const Supervision& supervision, const std::string& what,
                        absl::Duration limit = absl::Seconds(30));

}  // namespace patchflow
