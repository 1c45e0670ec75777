// A GenerationSpec and an end as bytes, for the store.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/generation.h"

namespace patchflow {

// CBOR, with Accepted as protobuf within it; spec.deadline and spec.estimate are not kept. What has
// no `software` or `provenance_mark` yet gets this version's name, and the mark.
std::string SerializeSpec(const GenerationSpec& spec);
// DATA_LOSS if it is not what SerializeSpec() wrote.
absl::StatusOr<GenerationSpec> ParseSpec(const std::string& bytes);

// With all details.
std::string SerializeStatus(const absl::Status& status);
// `bytes` in `status`; false, and nothing done, if they are none.
bool ParseStatus(const std::string& bytes, absl::Status& status);

}  // namespace patchflow
