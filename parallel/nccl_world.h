// Ranks with a GPU each, over NCCL: threads of one process, or of several that were handed one id.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "parallel/mesh.h"
#include "parallel/world.h"

namespace patchflow {

struct NcclOptions {
  // Of joining, splitting, and of every operation that was enqueued outside a CUDA graph, counted
  // from when the device may begin it: past it the world is aborted. What is replayed from a graph
  // is bounded by whoever waits for the replay.
  absl::Duration timeout = absl::Seconds(60);
  // Of a communicator of this name, thread blocks at most: a hop between stages is small and posted
  // long before it comes, and whatever waits for it holds multiprocessors. Others: NCCL's choice.
  std::map<std::string, int, std::less<>> most_blocks = {{kForwardHop, 2}, {kReturnHop, 2}};
};

// Each communicator has a stream of its own, of high priority, on its rank's device. Operations may
// be captured into CUDA graphs (mode: thread-local) once each pattern has run uncaptured, by all
// ranks alike; graphs are destroyed before the communicators in them. Sums of 16-bit types are
// rounded as NCCL rounds them, once for each rank added.
//
// The first fault on any rank of this process aborts all its communicators: kernels that wait for a
// peer end with undefined results, and every later call throws CommunicatorError with the reason.
// Such a world is never repaired. Nothing reaches the host from a replayed graph, so ask failure()
// before using what one computed.
class NcclWorld : public World {
 public:
  static constexpr size_t kIdBytes = 128;
  // kIdBytes, for a new world; to be handed to every process that takes part. Keeps a thread of
  // this process listening for the ranks. Throws CommunicatorError.
  static std::string MakeId();

  // The ranks first_rank, first_rank + 1, ... on these GPUs, out of `size` in all; give each to its
  // thread. Returns at once: the ranks join at their first Split(). Throws c10::Error for an id
  // that MakeId() did not make and for ranks beyond the size.
  static std::vector<std::unique_ptr<NcclWorld>> Join(const std::string& id, int size,
                                                      int first_rank,
                                                      const std::vector<at::Device>& devices,
                                                      const NcclOptions& options);

  // The reason of the abort; empty while healthy. Thread-safe.
  virtual std::string failure() const = 0;

  // Operations of all ranks of this process whose Pending was destroyed, other than by an
  // exception, before it was waited for. Thread-safe.
  virtual std::vector<std::string> Unwaited() const = 0;
};

}  // namespace patchflow
