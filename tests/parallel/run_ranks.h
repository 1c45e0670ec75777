// Threads as ranks for tests. Linked with run_ranks_local.cc (host memory) or run_ranks_nccl.cc
// (one GPU a rank), so that one body of a test runs over both.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "parallel/local_communicator.h"
#include "parallel/world.h"

namespace patchflow {

struct Rank {
  World& world;
  at::Device device;
  int index() const { return world.rank(); }
};

struct RunOptions {
  absl::Duration wait_timeout = absl::Seconds(20);  // Of the communicators.
  absl::Duration limit = absl::Seconds(60);         // Of the whole run: past it the process ends.
  LocalTiming timing = LocalTiming::kAtIssue;       // NCCL has its own.
};

// What the first rank that failed threw, or that an operation was never waited for.
class RankFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Ranks that can run at once: 8 threads, or the GPUs that there are.
int MaxRanks();
bool RanksAreGpus();
// What networks compute in: float32; on GPUs bfloat16, or the PATCHFLOW_TEST_DTYPE of the
// environment.
at::ScalarType RanksDtype();

// fn on `ranks` threads in InferenceMode, with one intra-op thread each. The first to throw aborts
// the world of all. Throws RankFailure.
void RunRanks(int ranks, const std::function<void(const Rank&)>& fn,
              const RunOptions& options = {});

// For the two implementations: runs worlds[i] on device i.
struct RankPlace {
  std::function<std::shared_ptr<World>()> connect;  // Called on the rank's thread.
  at::Device device;
};
void RunPlaces(const std::vector<RankPlace>& places, const std::function<void(const Rank&)>& fn,
               absl::Duration limit);

}  // namespace patchflow
