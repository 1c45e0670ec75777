// What a stream has still to send: a cursor over a generation.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "patchflow/v1/image_generation.pb.h"
#include "server/generation.h"

namespace patchflow {

// Holds no message. Next() makes the message that is due now, so progress and previews are
// conflated by nature, image bytes wait in the generation for a reader of any speed, and a reader
// that never reads costs nothing more. Used by one stream, one call at a time.
class Outbox {
 public:
  // `options` as validated; unset ones take their defaults.
  Outbox(std::shared_ptr<Generation> generation, const v1::StreamOptions& options);

  // The next message; nothing if none is due yet, or if the stream is at its end.
  std::optional<v1::GenerateImagesResponse> Next();
  // Once Next() has made the last message: OK with Completed, else the error that the generation
  // ended with. An error does not wait for images that are not yet sent.
  std::optional<absl::Status> end() const { return end_; }

  // Whether another message is due for certain after the one that Next() made last: that one need
  // not go out at once. Never after the first: a write that carries initial metadata and may wait
  // is not done before another goes out (gRPC 1.51).
  bool more() const { return more_; }

  Generation& generation() { return *generation_; }

 private:
  v1::GenerateImagesResponse Message(uint64_t skipped = 0);
  std::optional<v1::GenerateImagesResponse> NextProgress(const Standing& now);
  std::optional<v1::GenerateImagesResponse> NextPreview(const Standing& now);
  std::optional<v1::GenerateImagesResponse> NextImagePart();

  const std::shared_ptr<Generation> generation_;
  const int progress_every_;
  const bool previews_;
  const size_t chunk_bytes_;
  uint64_t sequence_ = 0;
  bool accepted_sent_ = false;
  bool image_part_next_ = false;
  bool more_ = false;
  Standing sent_;
  int image_index_ = 0;
  std::shared_ptr<const EncodedImage> image_;
  size_t offset_ = 0;
  std::optional<absl::Status> end_;
};

}  // namespace patchflow
