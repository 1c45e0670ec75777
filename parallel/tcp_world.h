// Ranks of several processes, on one host or many, over TCP and host memory: groups over hosts
// without GPUs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "parallel/tcp_door.h"
#include "parallel/world.h"

namespace patchflow {

struct TcpOptions {
  absl::Duration timeout = absl::Seconds(60);  // Of every wait.
};

// A star: the process of rank 0 hosts the operations of all, those of its own threads as LocalWorld
// does and those of guests, each on a connection of its own, in their names. So sums add ranks in
// order, and what a world computes does not depend on how its ranks are spread over processes.
// Inputs of a guest are read when it issues an operation, or when those before it in the same
// communicator that write them are done. Words between two guests pass the host,
// which costs twice the time of a direct way: hosts with GPUs have NCCL.
//
// A fault on any rank, and the end of any process before it said goodbye, aborts the whole world:
// every later call throws CommunicatorError with the reason. All processes are of one build.
class TcpWorld : public World {
 public:
  // Ranks 0 .. `ranks` - 1 out of `size`, in the process that opened the door; the others come in.
  static std::vector<std::unique_ptr<TcpWorld>> Host(std::unique_ptr<TcpDoor> door, int size,
                                                     int ranks, const TcpOptions& options);

  // Ranks first_rank .. first_rank + `ranks` - 1, in another process. Returns at once: each rank
  // connects at its first Split(). Throws CommunicatorError for what is no id.
  static std::vector<std::unique_ptr<TcpWorld>> Join(const std::string& id, int size,
                                                     int first_rank, int ranks,
                                                     const TcpOptions& options);

  // Operations of all ranks of this process whose Pending was destroyed, other than by an
  // exception, before it was waited for. Thread-safe.
  virtual std::vector<std::string> Unwaited() const = 0;
};

}  // namespace patchflow
