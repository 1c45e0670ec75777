// A worker process that this server started.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/config.h"
#include "server/tail.h"

namespace patchflow {

// The exit status by which a worker says that its command line or model cannot work, so that
// another start is useless,
inline constexpr int kExitRefused = 2;
// that a device is broken,
inline constexpr int kExitSickDevice = 3;
// and, 100 + N, that a device answers every call with CUDA error 700 + N until the process ends.
inline constexpr int kExitStickyError = 100;
inline constexpr int kStickyErrors = 22;

// How a process ended.
struct ProcessEnd {
  bool refused = false;           // With kExitRefused.
  std::string text;               // "exit status 1", "signal 9 (Killed)".
  int signal = 0;                 // 0: none.
  int status = 0;                 // Its exit status, unless a signal ended it.
  int64_t memory_peak_bytes = 0;  // Of the host's.

  bool sick_device() const { return signal == 0 && status == kExitSickDevice; }
  // Such as 700; 0 for another end.
  int sticky_error() const;
};

// As exec() takes it; the words must outlive it.
std::vector<char*> ArgvOf(const std::vector<std::string>& command);

// Used by one thread, which must live as long as the process: the kernel kills the process when
// that thread ends, whatever becomes of the server.
class WorkerProcess {
 public:
  // `command`: program and arguments. stderr and stdout go to the server's stderr.
  static absl::StatusOr<std::unique_ptr<WorkerProcess>> Start(
      const std::vector<std::string>& command);
  // Kills it if it still runs. Of one that does not end then, as one whose driver hangs, a thread
  // that is left behind waits for the end.
  ~WorkerProcess();
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  pid_t pid() const { return pid_; }
  // Whether it has ended; does not wait.
  std::optional<ProcessEnd> Poll();
  void Signal(int signal);
  // Of a process that has not ended, as the kernel shows it: "T (stopped)"; empty otherwise.
  std::string State() const;
  // The last lines that it wrote to stderr or stdout, 16 KiB at most. Of one that has ended: all
  // that it wrote.
  std::vector<std::string> LastLines();
  // Processes that the kernel has killed since this one was started because memory ran out.
  int64_t KernelMemoryKills() const;
  // SIGTERM, and SIGKILL after `grace`.
  void Stop(absl::Duration grace);
  // SIGKILL, unless it has ended. Whether it has within `wait`.
  bool Kill(absl::Duration wait);

 private:
  WorkerProcess(pid_t pid, int output);
  bool EndsWithin(absl::Duration wait);

  const pid_t pid_;
  const int64_t memory_kills_before_;
  std::optional<ProcessEnd> end_;
  Tail tail_;
};

// The command line of a group's worker that listens on `socket`, and whose recorder is
// RecorderFile(socket). `fault_orders`: see worker/fault_injection.h; empty: no fault to order.
std::vector<std::string> WorkerCommand(const std::string& binary, const GroupConfig& group,
                                       const std::string& socket, const Supervision& supervision,
                                       const std::string& fault_orders = "");
std::string RecorderFile(const std::string& socket);

// The worker program: the configuration's, or the one beside this program. NOT_FOUND if it is not
// an executable file.
absl::StatusOr<std::string> FindWorkerBinary(const std::string& configured);

}  // namespace patchflow
