// Runs a load plan.
#pragma once

#include <functional>
#include <iosfwd>
#include <vector>

#include "client/interrupt.h"
#include "client/load_stats.h"

namespace patchflow {

// Of one level.
struct LoadRow {
  LoadLevel level;
  LoadStats stats;
};

// How far a level is, for a person.
struct LoadProgress {
  LoadLevel level;
  double seconds = 0;  // Since the level began.
  int64_t sent = 0;
  int64_t in_flight = 0;
  const LoadStats& stats;
};

// Of one run; outlives it.
struct LoadRunning {
  const LoadPlan& plan;
  const std::vector<Connection>& connections;
  const std::string& address;
  std::ostream* records = nullptr;  // A line of JSON for each request, those of the warm-up too.
  std::function<void(const LoadProgress&)> show = [](const LoadProgress&) {};  // Each 0.2 s.
};

// The levels one after the other; each ends when its last call has. The interrupt cancels what is
// in flight and ends the run: the rows are of what was run by then.
std::vector<LoadRow> RunLoad(const LoadRunning& running, Interrupt& interrupt);

}  // namespace patchflow
