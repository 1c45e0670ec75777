// What a run of ranks failed with.
#pragma once

#include <functional>
#include <string>

#include "tests/parallel/run_ranks.h"

namespace patchflow {

// The words of the RankFailure that RunRanks() throws; empty if it throws none.
inline std::string FailureOf(int ranks, const std::function<void(const Rank&)>& fn,
                             const RunOptions& options = {}) {
  try {
    RunRanks(ranks, fn, options);
  } catch (const RankFailure& failure) {
    return failure.what();
  }
  return "";
}

}  // namespace patchflow
