// JSON text as Python writes it: NaN and Infinity are numbers.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace patchflow {

struct JsonRules {
  bool nonfinite = false;    // NaN, Infinity and -Infinity are numbers.
  bool unique_keys = false;  // Otherwise the last of equal keys holds, as in Python.
  int max_depth = 64;
};

// One JSON value. INVALID_ARGUMENT names `source` (the file), the byte at which the text went
// wrong, and why.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, const std::string& source,
                                         const JsonRules& rules);

// The text of `value`, cut to a length that fits a message.
std::string Abbreviated(const nlohmann::json& value);

}  // namespace patchflow
