// Of what this program was made.
#pragma once

#include <string>

namespace patchflow {

// Versions of libraries are those that the build found, for workers too; "none" without CUDA.
struct BuildInfo {
  std::string version;
  std::string git_sha = "unknown";
  std::string compiler;
  std::string cuda;
  std::string nccl;
  std::string torch;
};

// Thread-safe, but for SetGitSha(): once, by main(), before anything else. The commit changes with
// every build, so that only the program itself is linked with it.
const BuildInfo& Build();
void SetGitSha(const char* sha);

}  // namespace patchflow
