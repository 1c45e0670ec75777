// Names the likely cause of a worker's death from its black box.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace patchflow {

enum class Cause {
  kKilled,
  kKilledForMemory,
  kStopped,
  kHang,
  kSkippedCollective,
  kException,
  kOutOfMemory,
  kNotANumber,
  kCrash,
  kUncaughtException,
  kRefused,
  kSickDevice,
  kDeviceError,
  kNoContact,
  kUnknown,
};

// "killed", "skipped collective", ...
const char* Name(Cause cause);

struct Diagnosis {
  Cause cause = Cause::kUnknown;
  std::string sentence;               // What happened, where.
  std::string advice;                 // What to do about it.
  std::vector<std::string> evidence;  // Lines of the box that say so.
};

// `box`: as server/black_box.h writes it. Whatever is missing in it is not used. Looks at nothing
// that `patchflow chaos` leaves: orders to fail are told to the log alone, which is not read here.
Diagnosis Diagnose(const nlohmann::json& box);

// A file of either kind: a front end's black box, or a recorder that a worker wrote by itself
// (patchflow-worker --black-box). INVALID_ARGUMENT for another, NOT_FOUND if it can't be read.
absl::StatusOr<nlohmann::json> ReadBox(const std::string& path);

}  // namespace patchflow
