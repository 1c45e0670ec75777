// A generation's trace in the JSON that Perfetto (ui.perfetto.dev) and chrome://tracing show.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "patchflow/v1/image_generation.pb.h"

namespace patchflow {

// {"traceEvents": [...], "otherData": {...}} of the Trace Event Format: a thread for each row, the
// front end first, then the ranks in order; a complete event for each span and each step, times in
// microseconds since the call came in.
nlohmann::ordered_json ChromeTrace(const v1::GetGenerationTraceResponse& trace);

}  // namespace patchflow
