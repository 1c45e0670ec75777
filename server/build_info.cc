#include "server/build_info.h"

#include "server/version.h"

namespace patchflow {
namespace {

BuildInfo& TheBuild() {
  static auto* const build = new BuildInfo{kVersion,
                                           "unknown",
                                           __VERSION__,
                                           PATCHFLOW_WITH_CUDA,
                                           PATCHFLOW_WITH_NCCL,
                                           PATCHFLOW_WITH_TORCH};
  return *build;
}

}  // namespace

const BuildInfo& Build() { return TheBuild(); }

void SetGitSha(const char* sha) { TheBuild().git_sha = sha; }

}  // namespace patchflow
