#pragma once

#include <string>

namespace patchflow {

inline constexpr char kVersion[] = PATCHFLOW_VERSION;

// As metadata of images name what made them.
inline std::string SoftwareName() { return std::string("patchflow ") + kVersion; }

}  // namespace patchflow
