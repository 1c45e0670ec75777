// What was done for a generation, as spans.
#pragma once

#include <string>

#include "patchflow/v1/image_generation.pb.h"
#include "server/request_trace.h"

namespace patchflow {

// Nested: every span lies within its parent. Times of workers are moved from their host's monotonic
// clock to this one's: by nothing where both can be the same clock, else so that the job's way
// there and the report's way back took equally long; half the sum of those is then the attribute
// "clock_error_ns" of the rank's span, and bounds how far off it and what is in it may be.
v1::GetGenerationTraceResponse SpansOf(const RequestTrace::Record& record);

// How much to add to a worker's clock to have this one's, in nanoseconds, and by how much that may
// be wrong: 0 if the clocks are the same.
struct ClockOffset {
  int64_t ns = 0;
  int64_t error_ns = 0;
};
ClockOffset OffsetOf(Clock::time_point asked, const RequestTrace::Report& report);

}  // namespace patchflow
