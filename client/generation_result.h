// What came of a request, for people and for programs.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "patchflow/v1/image_generation.pb.h"

namespace patchflow {

struct SavedImage {
  std::string path;
  v1::ImageHeader header;
  absl::Duration after;  // From the request's beginning to its last byte.
};

struct GenerationResult {
  std::optional<std::string> prompt;  // Nothing if it was fetched.
  std::string request_id;
  std::optional<v1::Accepted> accepted;
  std::vector<SavedImage> images;
  std::optional<v1::Completed> completed;
  absl::Status status;
  int retries = 0;
  absl::Duration elapsed;
};

// "image-42.png  256x256  seed 42  1.84 s"
std::string ImageLine(const SavedImage& image);

// "done in 1.90 s: queue 0.00, text_encode 0.05, ...": the server's stages, as far as it tells
// them.
std::string DoneLine(const GenerationResult& result);

// One object: {"request_id", "prompt", "status", "seconds", "retries", "images": [{"path", "index",
// "seed", "width", "height", "format", "bytes", "sha256", "seconds"}], "effective", "plan_digest",
// "cost", "timings", "attempts", "peak_gpu_memory_bytes", "server_version", "server_instance"}; of
// a failure also what ErrorJson says. What is not known is left out.
nlohmann::json ResultJson(const GenerationResult& result);

// A message as JSON with the proto's field names, unset fields included.
nlohmann::json MessageJson(const google::protobuf::Message& message);

// One line, whatever bytes the strings hold.
std::string JsonLine(const nlohmann::json& json);

// "png", "jpg", "webp", "rgb"
std::string FileExtension(v1::ImageFormat format);

}  // namespace patchflow
