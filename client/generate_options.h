// The options of a generation, and the request that they make.
#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "patchflow/v1/image_generation.pb.h"

namespace patchflow {

// As given; what is not given is left to the server. Ranges are the server's to check.
struct GenerateOptions {
  std::optional<std::string> prompt;
  std::string file;  // Of prompts; "-" is the standard input.
  std::string model;
  std::string size;  // "1024x512"
  std::optional<int32_t> width;
  std::optional<int32_t> height;
  std::optional<int32_t> count;
  std::optional<int32_t> steps;
  std::optional<float> guidance;
  std::optional<uint64_t> seed;
  std::optional<std::string> negative;
  std::optional<std::string> scheduler;
  v1::ImageFormat format = v1::IMAGE_FORMAT_UNSPECIFIED;
  std::optional<int32_t> quality;
  bool embed_metadata = false;
  v1::Priority priority = v1::PRIORITY_UNSPECIFIED;
  v1::DisconnectPolicy on_disconnect = v1::DISCONNECT_POLICY_UNSPECIFIED;
  std::string request_id;
  bool validate_only = false;
  int32_t chunk_bytes = 0;
};

// A version 4 UUID (RFC 9562).
std::string RandomRequestId();

void AddGenerateOptions(CLI::App& command, GenerateOptions& options);

// The prompts, in order: the one given, or the lines of the file that are not empty.
// INVALID_ARGUMENT for neither or both, a file that can't be read or has no prompts, and text that
// is not UTF-8.
absl::StatusOr<std::vector<std::string>> ReadPrompts(const GenerateOptions& options);

// The request for one prompt. Without --seed and --request-id it gets random ones, so that asking
// again after a failure asks for the same images. `timeout` bounds the generation on the server
// too. INVALID_ARGUMENT for a --size that is not WIDTHxHEIGHT or comes with --width or --height.
absl::StatusOr<v1::GenerateImagesRequest> BuildRequest(const GenerateOptions& options,
                                                       const std::string& prompt,
                                                       absl::Duration timeout);

}  // namespace patchflow
