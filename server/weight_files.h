// Whether the files of a model are all there and whole, without reading the weights.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"

namespace patchflow {

struct WeightFiles {
  int files = 0;
  int64_t bytes = 0;
};

// Looks at a diffusers directory: every component that model_index.json names has a folder, every
// *.index.json finds its shards, and every *.safetensors is as long as its header says.
// INVALID_ARGUMENT with the file and what is wrong. Reads headers only.
absl::StatusOr<WeightFiles> CheckWeightFiles(const std::string& directory);

// Elements of every tensor in the *.safetensors of one folder, by name. INVALID_ARGUMENT as above.
absl::StatusOr<std::map<std::string, int64_t>> TensorElements(const std::string& folder);

}  // namespace patchflow
