// What names a checkpoint, a build, and a plan.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace patchflow {

std::string Sha256(std::string_view bytes);  // 32 bytes.

// SHA-256, hexadecimal, over everything that the engine may read of a checkpoint: model_index.json
// and, of the folders scheduler, text_encoder, tokenizer, transformer and vae, every *.json,
// *.model and *.safetensors file. Covered are each file's path in the checkpoint, its size and all
// of its bytes: it is the digest of a list with one line a file, "path size digests", where the
// bytes stand as the SHA-256 of each run of 64 MiB, so that `threads` threads share the work.
// NOT_FOUND without model_index.json; UNAVAILABLE for a file that can't be read.
absl::StatusOr<std::string> ModelDigest(const std::filesystem::path& model_dir, int threads);

// "0.1.0+" and the linker's build id of the running program: equal for equal binaries alone.
std::string BuildId();

// What an image's bytes depend on besides its request.
struct Plan {
  std::string model_digest;
  std::string build;       // BuildId().
  std::string arithmetic;  // ArithmeticName() of the ranks' device.
  std::string dtype;
  std::string layout;
  int batch_size = 1;
};
std::string PlanDigest(const Plan& plan);  // SHA-256, hexadecimal.

// What of a plan an image's own parameters don't tell, for its metadata: "arithmetic", "batch" and
// "build".
std::vector<std::pair<std::string, std::string>> PlanFacts(const Plan& plan);

}  // namespace patchflow
