// When a rank did what at one image.
#pragma once

#include <chrono>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "engine/engine.h"

namespace patchflow {

// By the monotonic clock of the rank's host. 1 us an image: a phase is noted when it begins, steps
// are read from the engine's own clock afterwards.
struct RankTrace {
  using Clock = std::chrono::steady_clock;
  struct PhaseSpan {
    Phase phase;
    Clock::time_point begin;
    Clock::time_point end;
  };
  int rank = 0;
  std::vector<PhaseSpan> phases;                 // Those that began, in order.
  std::optional<Clock::time_point> steps_begin;  // When the first step was issued.
  std::vector<absl::Duration> step_times;        // Of every step, by the device's clock.
};

}  // namespace patchflow
