// Names of the files that images go into.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace patchflow {

struct OutputFields {
  int prompt = 0;  // From 0: of the prompts of this run.
  int index = 0;   // From 0: of the images of a request.
  uint64_t seed = 0;
  std::string request_id = {};
  std::string model = {};
  std::string ext = {};  // "png"
};

// A path with fields in braces.
class OutputPattern {
 public:
  // INVALID_ARGUMENT, naming --out, for an empty text, a brace without its other one, and a field
  // that is not one of {prompt} {index} {seed} {request_id} {model} {ext}.
  // `prompt_digits`: how many {prompt} has at least.
  static absl::StatusOr<OutputPattern> Parse(const std::string& text, int prompt_digits = 4);

  // "-" alone: the standard output.
  bool is_stdout() const { return text_ == "-"; }
  // INVALID_ARGUMENT if several images would go into one file.
  absl::Status CheckDistinct(int num_prompts, int count) const;
  // In request_id and model every character but [A-Za-z0-9._-] becomes '_', and so does a leading
  // '.'.
  std::string Expand(const OutputFields& fields) const;
  // Whether it has the field in braces.
  bool Has(std::string_view field) const;

 private:
  std::string text_;
  int prompt_digits_ = 4;
};

// Writes the file whole or not at all: into a neighbour that then takes its name, replacing what
// was there. Makes folders. What exists and is no regular file (a device, a pipe) is written to in
// place. PERMISSION_DENIED, RESOURCE_EXHAUSTED, ... with the path and the system's reason.
absl::Status WriteFile(const std::string& path, std::string_view bytes);

}  // namespace patchflow
