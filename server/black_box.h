// What is kept of a worker that died: one JSON file each, in a folder of bounded size.
//
// `patchflow diagnose` reads them. A file has: when, which group and process; how the loss was
// found and how the process ended; the state of a process that had not ended; the request that ran
// or was the last to run (its id, never its prompt); the last heartbeat with every rank's phase,
// step and memory; the worker's own recorder (worker/black_box.h), the tail of its stderr, and the
// configuration of the group, in which there are no secrets.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "absl/time/time.h"
#include "server/config.h"
#include "server/group.h"
#include "server/worker_process.h"

namespace patchflow {

// Thread-safe.
class BlackBoxes {
 public:
  explicit BlackBoxes(BlackBoxConfig config);

  const std::string& directory() const { return config_.directory; }

  struct Death {
    std::string why;
    LossKind kind = LossKind::kProcessEnded;
    absl::Duration since_beat;         // Negative: there was none.
    std::string recorder;              // The worker's own file; empty: none.
    WorkerProcess* process = nullptr;  // Not yet waited for if it goes on. Null: of another host.
  };
  // Writes a file and removes the oldest beyond the bounds. Its path; empty if it could not be
  // written, which is logged: a death is not made worse by a full disk. Some milliseconds.
  std::string Record(const Group& group, const Death& death);

 private:
  bool MakeDirectory();
  void Prune();

  BlackBoxConfig config_;
  std::mutex mutex_;
};

// Where black boxes go unless the configuration says so: in the folder for temporary files, one
// for each user.
std::string DefaultBlackBoxDirectory();

}  // namespace patchflow
