// Keeps one group's worker, or all of them, alive and watched.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "server/black_box.h"
#include "server/config.h"
#include "server/device_judge.h"
#include "server/group.h"
#include "server/joined_life.h"
#include "server/load_limits.h"
#include "server/vital_signs.h"
#include "server/worker_client.h"
#include "server/worker_process.h"

namespace patchflow {

// A local worker is started, and started again when its process ends, when it misses heartbeats,
// when it says that it failed, when it does not load or warm up in time (LoadLimits, which are kept
// over its restarts), when a job is silent for too long, or when the dispatcher complains: the
// first time at once, then with a growing pause. It is given up after `max_failures` in a row
// without a completed job, and at once if it refuses its command line. A remote worker is only
// watched, for ever. Of a group with several, see JoinedLife: one is lost with all.
// Any group is given up at once if a device of it must not be used again (see DeviceJudge): this
// process goes on without it. Whoever keeps a remote worker starts it again on the same device, so
// that a worker that seems well proves nothing: the group stays given up until Group::Resume(), by
// which an operator says that the device was mended or replaced, or until this process is started
// anew.
class Supervisor {
 public:
  struct Options {
    Supervision supervision;
    ConnectWorker connect;
    std::string owner;         // Of this front end: see worker.proto.
    std::string binary;        // Of a local worker.
    std::string socket;        // Of a local worker: path, to which the number of its life is added.
    std::string fault_orders;  // Of a local worker; empty: none. See WorkerCommand().
    bool trial = false;        // Given up with the first failure before it was ever ready.
    BlackBoxes* black_boxes = nullptr;  // Where losses are recorded; null: nowhere.
    std::function<void(const std::string& why)> on_given_up;  // Once, from the supervisor's thread.
  };
  // `group` must outlive this.
  Supervisor(Group& group, Options options);
  // Stops the worker: SIGTERM, SIGKILL after 2 s.
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

 private:
  struct Loss {
    std::string why;
    LossKind kind = LossKind::kProcessEnded;
    bool refused = false;
    bool device = false;  // It must not be used again.
    FaultDetail detail = {};
  };

  void Run();
  // Out of service at once, however long its process takes to end.
  void Lose(const Loss& loss);
  Loss NotStarted(const absl::Status& status);
  // Of processes that are killed: until they have ended, so that the next ones find the devices
  // free; bounded.
  void AwaitEnds(const std::vector<WorkerProcess*>& processes);
  // With the time to load that was learned, which the worker itself watches too.
  Supervision RulesOfThisLife() const;
  void Count(const Loss& loss);
  // Whether it was, before it was stopped.
  bool AwaitResume();
  // One life of a worker, until it is lost and has ended; nothing if it was stopped on request.
  std::optional<Loss> RunOnce();
  // The same of several.
  std::optional<Loss> RunJoined();
  absl::StatusOr<std::vector<JoinedLife::Member>> StartMembers();
  std::string SocketOf(int member) const;  // Of one of several, in this life.
  std::optional<Loss> WatchOver(const std::string& address, WorkerProcess* process);
  std::optional<WorkerFault> FindFault(const Pulse& pulse, Clock::time_point started,
                                       LoadProgress& progress, WorkerProcess* process) const;
  std::optional<WorkerFault> FindFaultOfJob(const Pulse& pulse) const;
  std::optional<WorkerFault> Greet(const std::shared_ptr<WorkerClient>& client);
  // Judges the end of a process and records it.
  void Examine(Loss& loss, WorkerProcess* process, const std::string& recorder);
  // Of a fault that was noticed elsewhere: waits a moment for the worker to say why it failed.
  WorkerFault AwaitReason(WorkerFault fault, WorkerProcess* process);
  // What `fault`, or the end of the process, amounts to; nothing while all is well.
  std::optional<Loss> Conclude(const std::optional<WorkerFault>& fault, WorkerProcess* process);
  std::unique_ptr<WatchCall> StartWatch(WorkerClient& client);
  bool StoppedWithin(absl::Duration wait);

  Group& group_;
  const Options options_;
  const bool local_;
  int lives_ = 0;
  uint64_t lost_epoch_ = 0;  // The last in which several workers were joined.
  DeviceJudge judge_;
  LoadLimits load_limits_;
  std::string told_log_level_;  // Which the worker's watch asks for.

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  Pulse pulse_;
  std::thread thread_;
};

}  // namespace patchflow
