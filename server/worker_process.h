// A worker process that this server started.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/config.h"

namespace patchflow {

// The exit status by which a worker says that its command line or model cannot work, so that
// another start is useless.
inline constexpr int kExitRefused = 2;

// How a process ended.
struct ProcessEnd {
  bool refused = false;  // With kExitRefused.
  std::string text;      // "exit status 1", "signal 9 (Killed)".
};

// Used by one thread, which must live as long as the process: the kernel kills the process when
// that thread ends, whatever becomes of the server.
class WorkerProcess {
 public:
  // `command`: program and arguments. stderr and stdout go to the server's stderr.
  static absl::StatusOr<std::unique_ptr<WorkerProcess>> Start(
      const std::vector<std::string>& command);
  // Kills it if it still runs, and waits for its end.
  ~WorkerProcess();
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  pid_t pid() const { return pid_; }
  // Whether it has ended; does not wait.
  std::optional<ProcessEnd> Poll();
  void Signal(int signal);
  // SIGTERM, and SIGKILL after `grace`.
  void Stop(absl::Duration grace);

 private:
  explicit WorkerProcess(pid_t pid) : pid_(pid) {}

  const pid_t pid_;
  std::optional<ProcessEnd> end_;
};

// The command line of a group's worker that listens on `socket`.
std::vector<std::string> WorkerCommand(const std::string& binary, const GroupConfig& group,
                                       const std::string& socket, absl::Duration load_timeout);

// The worker program: the configuration's, or the one beside this program. NOT_FOUND if it is not
// an executable file.
absl::StatusOr<std::string> FindWorkerBinary(const std::string& configured);

}  // namespace patchflow
