// One job: images of one prompt, and what is told of them. Each is encoded while the ranks go on
// with the next, the last ones while the next job's first are made.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/image/image.h"
#include "worker/place.h"
#include "worker/rank_trace.h"

namespace patchflow {

struct JobImage {
  int index = 0;  // In the front end's request.
  ImageRequest request;
  EncodeOptions encode = {};
};

struct Job {
  std::string request_id;   // For logs.
  std::string traceparent;  // W3C trace context, for logs; empty without one.
  std::vector<JobImage> images;
  Ownership owner;     // Who asks, and
  int64_t number = 0;  // the job's number in its epoch, where the group has several workers.
};

enum class JobPhase { kText, kDenoise, kDecode, kEncode };

// An image as it leaves.
struct FinishedImage {
  int index = 0;
  uint64_t seed = 0;
  int width_px = 0;
  int height_px = 0;
  ImageFormat format = ImageFormat::kPng;
  std::string bytes;   // A whole file.
  std::string sha256;  // Of `bytes`: 32 bytes.
  PhaseTimes times;    // Of its pass, and so are step_times and the memory.
  std::chrono::steady_clock::time_point encode_begin;
  absl::Duration encode_time;
  std::vector<absl::Duration> step_times;
  int64_t peak_memory_bytes = 0;
};

// Told by the threads of a job, one call at a time for each function. Images that are made in one
// pass are told of side by side.
class JobEvents {
 public:
  virtual ~JobEvents() = default;
  // Of the image that is being made, or encoded. Must not block.
  virtual void OnPhase(int image_index, JobPhase phase, int steps_done) = 0;
  // A PNG file of what an image may become, after so many steps; before the image's OnImage(). Must
  // not block. Ignored by default.
  virtual void OnPreview(int /*image_index*/, int /*steps_done*/, std::string /*png*/) {}
  // When the ranks have ended their work at an image, whether it was made or not; before OnImage().
  // Must not block.
  virtual void OnTrace(int image_index, const std::vector<RankTrace>& ranks) = 0;
  // In order. May block while an earlier image is not yet taken away; the ranks go on with the next
  // image meanwhile.
  virtual void OnImage(FinishedImage image) = 0;
  // After the last OnTrace(), when the worker takes another job though the last images have yet to
  // be encoded or taken away. Must not block. Ignored by default.
  virtual void OnRanksFree() {}
  // Blocks until no image waits to be taken away. Does nothing by default.
  virtual void AwaitTaken() {}
  // Last, once, when the ranks are idle again and every image was handed over.
  virtual void OnEnd(const absl::Status& status) = 0;
};

}  // namespace patchflow
