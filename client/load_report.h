// What a load run found, for people and for programs.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "client/load_run.h"

namespace patchflow {

// {"client_version", "limit_s", "options", "rows": [{"mode": "open" | "closed", "rate_hz" |
// "concurrency", "window_s", "sent", "not_sent", "ended", "succeeded", "throughput_hz",
// "goodput_hz", "images", "reruns", "late_s", "outcomes": {NAME: {"count", "accept_s", "wait_s",
// "total_s"}}}]}; times as Percentiles::Json says.
nlohmann::json LoadJson(const LoadPlan& plan, const std::vector<LoadRow>& rows);

// A paragraph for each level, with a table of its outcomes.
std::string LoadText(const LoadPlan& plan, const std::vector<LoadRow>& rows);

// "rate 20/s, 12 s: 240 sent, 3 in flight, 19.8/s, OK p50 31 ms p99 88 ms, 4 failed"
std::string LoadProgressText(const LoadProgress& progress);

}  // namespace patchflow
