// Which safetensors files hold the weights of a component, and all their tensors under one roof.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/weights/safetensors.h"

namespace patchflow {

struct LocatedTensor {
  std::shared_ptr<const SafetensorsFile> file;
  const StoredTensor* stored;  // In `file`.
};
using TensorTable = std::map<std::string, LocatedTensor, std::less<>>;

// Opens the files of a component's folder, single or sharded; the order of preference is the one of
// WeightReader::Open, which also says what the errors are. Everything wrong with the shards is in
// one status.
absl::StatusOr<TensorTable> OpenCheckpoint(const std::filesystem::path& component_dir);

}  // namespace patchflow
