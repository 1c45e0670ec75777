// Follows the messages of one generation and holds the server to the rules of its stream.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "client/hasher.h"
#include "patchflow/v1/image_generation.pb.h"

namespace patchflow {

// What a stream brings, in the API's order. Called by GenerationStream::Take; an error ends the
// stream.
class GenerationEvents {
 public:
  virtual ~GenerationEvents() = default;
  virtual void OnAccepted(const std::string& request_id, const v1::Accepted& accepted) = 0;
  virtual void OnProgress(const v1::Progress& progress) = 0;
  virtual void OnPreview(const v1::Preview& preview) = 0;
  // A whole image, whose size and hash have been checked.
  virtual absl::Status OnImage(const v1::ImageHeader& header, std::string bytes) = 0;
  virtual void OnCompleted(const v1::Completed& completed) = 0;
};

// What a stream must bring before Completed.
enum class StreamContent {
  kImages,   // As many as Accepted says.
  kNothing,  // validate_only.
};

// One stream, from its first message to its end. Holds no more than one image. Not thread-safe.
class GenerationStream {
 public:
  // `request_id`: that of the request; empty takes the server's. `events` outlives this.
  GenerationStream(std::string request_id, StreamContent content, GenerationEvents& events);

  // DATA_LOSS, saying which rule is broken: order of messages, sequence, ids, order and size of
  // images and chunks, hashes, and ids that could not be file names. Otherwise what `events`
  // answers. Events that this client doesn't know are passed over.
  absl::Status Take(v1::GenerateImagesResponse& message);

  // The stream ended with OK: DATA_LOSS if Completed did not come.
  absl::Status Finish() const;

 private:
  absl::Status Dispatch(v1::GenerateImagesResponse& message);
  absl::Status TakeAccepted(const v1::Accepted& accepted);
  absl::Status TakeHeader(v1::ImageHeader header);
  absl::Status TakeChunk(const v1::ImageChunk& chunk);
  absl::Status TakeCompleted(const v1::Completed& completed);

  std::string request_id_;
  const StreamContent content_;
  GenerationEvents& events_;
  uint64_t sequence_ = 0;
  bool accepted_ = false;
  bool completed_ = false;
  int num_images_ = 0;  // To come in all, after Accepted.
  int images_done_ = 0;
  std::optional<v1::ImageHeader> header_;  // Of the image whose bytes are coming.
  std::string bytes_;
  Hasher hasher_;
};

}  // namespace patchflow
