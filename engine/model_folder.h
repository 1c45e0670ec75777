// A diffusers directory as a whole: what model_index.json says of its components, and what is wrong
// with it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace patchflow {

// OK if all are; otherwise one status with every line of their messages once: the code of the first
// error if all have the same, INVALID_ARGUMENT if they differ.
absl::Status Together(const std::vector<absl::Status>& statuses);

struct ModelIndex {
  std::string pipeline_class;  // "PixArtAlphaPipeline", "PixArtSigmaPipeline"
  int max_text_tokens = 0;     // That the pipeline pads and truncates prompts to.
};

// <model_dir>/model_index.json: a known pipeline, whose text encoder, tokenizer and VAE are of
// classes that the engine reads, and a folder for each component. NOT_FOUND without the folder or
// the file, INVALID_ARGUMENT for the rest.
absl::StatusOr<ModelIndex> ReadModelIndex(const std::filesystem::path& model_dir);

}  // namespace patchflow
