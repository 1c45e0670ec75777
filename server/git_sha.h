#pragma once

namespace patchflow {

// The commit, with "-dirty" if files differ from it; "unknown" outside of git. See
// cmake/BuildInfo.cmake.
extern const char kGitSha[];

}  // namespace patchflow
