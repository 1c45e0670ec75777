// One job: images of one prompt, made one after the other, each encoded while the next is made, the
// last one while the next job's first is.
#pragma once

#include <chrono>
#include <functional>
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
  // After the last OnTrace(), when the worker takes another job though the last image has yet to be
  // encoded or taken away. Must not block. Ignored by default.
  virtual void OnRanksFree() {}
  // Blocks until no image waits to be taken away. Does nothing by default.
  virtual void AwaitTaken() {}
  // Last, once, when the ranks are idle again and every image was handed over.
  virtual void OnEnd(const absl::Status& status) = 0;
};

class Encoder;

// How a job stands when its ranks are idle.
struct RanksEnd {
  // What came of all but what is left.
  absl::Status status;
  // What is left: blocks until the last image was encoded and handed over, and says what came of
  // that. Called once, on any thread. Empty if no image is left.
  std::function<absl::Status()> last_image;
};

// Blocks until the ranks are idle and every image but the last was handed over: none by a group
// without rank 0. Previews of images that ask for them go to OnPreview(); what the requests of
// `job` would show them to is not called. Does not call OnRanksFree() and OnEnd(). Stops at `stop`,
// or where other processes take part, when their `agreement` says so. `encoder`, which knows
// earlier jobs, outlives what is left. `await_earlier`: called before an image of this job is
// encoded, and blocks while what is left of a job before is; may be empty. Statuses as
// RankGroup::Run, and Encoder's.
RanksEnd RunRanks(RankGroup& group, const Job& job, const std::stop_token& stop, JobEvents& events,
                  const std::shared_ptr<JobAgreement>& agreement, Encoder& encoder,
                  const std::function<void()>& await_earlier = nullptr);

// All of it.
absl::Status RunJob(RankGroup& group, const Job& job, const std::stop_token& stop,
                    JobEvents& events);

}  // namespace patchflow
