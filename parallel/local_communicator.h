// Threads of one process as ranks, over host memory: tests, and groups without GPUs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "parallel/world.h"

namespace patchflow {

// When an operation that all its ranks have issued reads its inputs and writes its outputs. Streams
// allow any moment from the last issue to the first wait, so code must be right under both ends.
enum class LocalTiming { kAtIssue, kAtWait };

struct LocalOptions {
  absl::Duration timeout = absl::Seconds(60);  // Of every wait.
  LocalTiming timing = LocalTiming::kAtIssue;
};

// Behaves as streams do: an operation runs when every rank that takes part has come to it in its
// order of issue, and a rank's operations of one communicator run one after the other. Sums add
// ranks in order, in float32.
class LocalWorld : public World {
 public:
  // One a rank; give each to its thread.
  static std::vector<std::unique_ptr<LocalWorld>> Make(int size, const LocalOptions& options);

  // Operations of all ranks whose Pending was destroyed, other than by an exception, before it was
  // waited for. Thread-safe.
  virtual std::vector<std::string> Unwaited() const = 0;
};

}  // namespace patchflow
