// Files of text that a person wrote or a data set brought.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace patchflow {

// INVALID_ARGUMENT, beginning with `what`, unless the text is UTF-8.
absl::Status CheckUtf8(const std::string& what, const std::string& text);

// The lines that are not empty, without their ends; "-" is the standard input. INVALID_ARGUMENT
// names the option, the file and the line: can't be read, not UTF-8, no lines.
absl::StatusOr<std::vector<std::string>> ReadLines(const std::string& option,
                                                   const std::string& file);

}  // namespace patchflow
