// What a load run sends: a pure function of its options and of a request's number.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/load_options.h"

namespace patchflow {

// How a request ends, as far as that is the client's doing.
enum class LoadEnding { kWait, kCancel, kCancelCall, kDisconnect, kDeadline };

// "wait", "cancel", "cancel_call", "disconnect", "deadline"
const char* LoadEndingName(LoadEnding ending);

// 0: the model's default.
struct LoadShape {
  int32_t width_px = 0;
  int32_t height_px = 0;
  int32_t steps = 0;
  double weight = 1;
};

// One level of load.
struct LoadLevel {
  double rate_hz = 0;   // Of arrivals; 0: closed loop.
  int concurrency = 0;  // Clients of a closed loop.

  bool open() const { return rate_hz > 0; }
};

struct PlannedRequest {
  v1::GenerateImagesRequest request;
  LoadEnding ending = LoadEnding::kWait;
  absl::Duration leave_after;  // Of an ending other than kWait; of kDeadline, the deadline.
};

struct LoadPlan {
  LoadOptions options;
  std::vector<LoadLevel> levels;
  std::vector<LoadShape> shapes;
  std::vector<std::string> prompts;  // Empty: "load test 17".
  absl::Duration duration;           // Zero: until options.requests are sent.
  absl::Duration warm_up;
  absl::Duration within;
  absl::Duration limit;
  std::string id_prefix;  // Of request_ids: drawn at random, so that runs don't meet.

  // Request `number` of the run, from 0. Its seed is below 2^53 and, like all else but the id, the
  // same in every run with the same options.
  PlannedRequest RequestOf(int64_t number) const;
  // Before arrival `number` of an open loop: exponential, of mean 1 / rate_hz.
  absl::Duration GapBefore(int64_t number, double rate_hz) const;
};

// INVALID_ARGUMENT names the option, its value and what it must be.
absl::StatusOr<LoadPlan> MakeLoadPlan(const LoadOptions& options);

}  // namespace patchflow
