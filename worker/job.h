// One job: images of one prompt, made one after the other, each encoded while the next is made.
#pragma once

#include <chrono>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/image/image.h"
#include "worker/job_agreement.h"
#include "worker/place.h"
#include "worker/rank_group.h"

namespace patchflow {

struct JobImage {
  int index = 0;  // In the front end's request.
  ImageRequest request;
};

struct Job {
  std::string request_id;   // For logs.
  std::string traceparent;  // W3C trace context, for logs; empty without one.
  std::vector<JobImage> images;
  EncodeOptions encode;
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
  PhaseTimes times;
  std::chrono::steady_clock::time_point encode_begin;
  absl::Duration encode_time;
  std::vector<absl::Duration> step_times;
  int64_t peak_memory_bytes = 0;
};

// Told by the threads of a job, one call at a time for each function.
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
  // Last, once, when the ranks are idle again.
  virtual void OnEnd(const absl::Status& status) = 0;
};

class Encoder;

// Blocks until the ranks are idle and every finished image was handed over: none by a group without
// rank 0. Previews of images that ask for them go to OnPreview(); what the requests of `job` would
// show them to is not called. Does not call OnEnd(). Stops at `stop`, or where other processes take
// part, when their `agreement` says so. `encoder`: one that knows earlier jobs. Statuses as
// RankGroup::Run, and Encoder's.
absl::Status RunJob(RankGroup& group, const Job& job, const std::stop_token& stop,
                    JobEvents& events, const std::shared_ptr<JobAgreement>& agreement = nullptr,
                    Encoder* encoder = nullptr);

}  // namespace patchflow
