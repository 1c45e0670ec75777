// One life of a group of several workers: from their first sign until one of them is lost.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "server/config.h"
#include "server/group.h"
#include "server/joined_workers.h"
#include "server/load_limits.h"
#include "server/log.h"
#include "server/unreached.h"
#include "server/vital_signs.h"
#include "server/worker_client.h"
#include "server/worker_process.h"

namespace patchflow {

// Waits until every worker waits, asks the first for the id of a world, gives all of them that id
// and their places, and then watches over them: the loss of any is the loss of all. Workers that
// are in a world already, because this front end was started anew, are taken over as they are if
// they are all there and whole; otherwise, and after a loss, they are told to leave, end, and come
// back when whoever keeps them starts them again.
class JoinedLife {
 public:
  struct Parts {
    Group& group;
    const Supervision& supervision;
    const ConnectWorker& connect;
    std::string owner;  // Of this front end.
    LoadLimits& load_limits;
    uint64_t lost_epoch = 0;  // Epochs up to this one are not taken over.
    std::function<bool(absl::Duration wait)> stopped_within;  // Waits, and says whether to stop.
  };
  struct Member {
    std::string address;
    std::unique_ptr<WorkerProcess> process;  // Null if it is not started here.
  };
  // What was lost, and why.
  struct Loss {
    std::string why;
    LossKind kind = LossKind::kProcessEnded;
    size_t member = 0;
    FaultDetail detail = {};
  };
  JoinedLife(Parts parts, std::vector<Member> members);
  ~JoinedLife();  // Kills the processes.
  JoinedLife(const JoinedLife&) = delete;
  JoinedLife& operator=(const JoinedLife&) = delete;

  // Nothing if it was stopped.
  std::optional<Loss> Run();

  // After Run().
  uint64_t epoch() const { return ownership_.epoch(); }
  WorkerProcess* process(size_t member) { return members_[member].process.get(); }
  // Of those that are started here.
  std::vector<WorkerProcess*> processes();
  // Since its last heartbeat; nothing without one.
  std::optional<absl::Duration> SinceBeat(size_t member) const;
  // All processes at once, each with `grace` to end by itself.
  void Stop(absl::Duration grace);

 private:
  // `anew`: forgets what the watch before told, which another process may have said.
  void Watch(size_t member, bool anew);
  void TakeBeat(size_t member, const worker::v1::WatchResponse& beat);
  std::vector<Pulse> Pulses() const;
  std::optional<WorkerFault> FindFault(const std::vector<Pulse>& pulses);
  std::optional<WorkerFault> FindFaultOf(size_t member, const Pulse& pulse);
  WorkerFault AwaitReason(WorkerFault fault);
  std::optional<Loss> Conclude(const std::optional<WorkerFault>& fault);

  // -- joined_forming.cc: what can be done next on the way to serving.
  std::optional<WorkerFault> Proceed(const std::vector<Pulse>& pulses);
  std::optional<WorkerFault> Form();
  std::optional<WorkerFault> JoinAll(const std::string& world_id);
  std::optional<WorkerFault> TakeOver();
  std::optional<WorkerFault> Greet();
  // Those that are in a world of an epoch up to this one. Whether there were any.
  bool TellToLeave(const std::vector<Pulse>& pulses, uint64_t last_epoch);
  // Of all, if they fit together.
  std::optional<WorkerFault> Describe(std::vector<worker::v1::DescribeResponse>& infos);
  void NewEpoch(const std::vector<Pulse>& pulses);
  void TellWhoIsMissing(const std::vector<Pulse>& pulses);

  const Parts parts_;
  std::vector<Member> members_;
  JoinedCall::Members clients_;
  const Clock::time_point started_ = Clock::now();
  worker::v1::Ownership ownership_;  // Epoch 0 until the group is formed.
  std::vector<int> first_ranks_;
  std::shared_ptr<JoinedWorkers> joined_;
  bool greeted_ = false;
  bool told_missing_ = false;
  std::string told_log_level_ = LogLevel();  // Which the workers' watches ask for.

  mutable std::mutex mutex_;
  std::vector<Pulse> pulses_;
  std::vector<LoadProgress> progress_;  // Used by Run() alone.
  std::vector<Unreached> unreached_;
  std::vector<std::unique_ptr<WatchCall>> watches_;  // Last: they call back.
};

}  // namespace patchflow
