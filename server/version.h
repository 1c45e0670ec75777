#pragma once

namespace patchflow {

inline constexpr char kVersion[] = PATCHFLOW_VERSION;

}  // namespace patchflow
