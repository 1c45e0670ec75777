// One run of a generation's missing images on a worker.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "patchflow/worker/v1/worker.pb.h"
#include "server/cancel_watch.h"
#include "server/clock.h"
#include "server/cost_model.h"
#include "server/generation.h"
#include "server/metrics.h"
#include "server/worker_client.h"

namespace patchflow {

// What a worker is asked for: all images that are missing.
worker::v1::ExecuteRequest MakeExecuteRequest(const Generation& generation);

// Takes a worker's events and hands whole, checked images to the generation.
class ImageCollector {
 public:
  // `batch_size`: images that share a pass, whose times each of them tells. The generation counts
  // them once.
  ImageCollector(Generation& generation, int batch_size, CostModel& costs,
                 const ModelMetrics& metrics);

  // INTERNAL, without an ErrorInfo, if the worker broke the rules: bytes that don't fit or have
  // another SHA-256.
  absl::Status Take(worker::v1::ExecuteResponse& event);

 private:
  absl::Status Begin(const v1::ImageHeader& header);
  absl::Status Append(const v1::ImageChunk& chunk);
  absl::Status Finish(const worker::v1::ImageDone& done);

  Generation& generation_;
  const int batch_size_;
  CostModel& costs_;
  const ModelMetrics& metrics_;
  std::shared_ptr<EncodedImage> image_;
  int finished_ = 0;
};

// A run from its call to the call's end. Used by one thread at a time.
class JobRun {
 public:
  // Calls `worker`, and is the generation's stopper until Finish(). `cancels` is told when the call
  // has its ranks.
  JobRun(JobRunner& worker, const worker::v1::ExecuteRequest& request,
         std::shared_ptr<Generation> generation, int batch_size, CostModel& costs,
         const ModelMetrics& metrics, CancelWatch& cancels);

  // What gives the worker up, on any thread.
  std::function<void()> abort() const;
  // Takes events, and calls `note` at each, until the worker's ranks are free (true: call it again
  // for the rest) or the call has ended (false).
  bool Read(const std::function<void(const worker::v1::ExecuteResponse&)>& note);
  // After Read() was false: what came of the call. INTERNAL, without an ErrorInfo, for one that
  // ended with OK but without the first image that it was asked for.
  absl::Status Finish();
  // Number of images that are asked for.
  int images() const { return images_; }
  const std::shared_ptr<Generation>& generation() const { return generation_; }

 private:
  void LeaveRanks();
  // Observes how long the ranks were held after the cancellation, if there was one.
  void NoteCancellation();

  const std::shared_ptr<Generation> generation_;
  const ModelMetrics& metrics_;
  CancelWatch& cancels_;
  const Clock::time_point began_ = Clock::now();
  bool heard_ = false;
  bool has_ranks_ = true;
  const int first_image_;
  const int images_;
  const std::shared_ptr<ExecuteCall> call_;
  const std::shared_ptr<std::atomic<Clock::time_point>> cancelled_at_;  // The epoch: it was not.
  ImageCollector collector_;
  absl::Status broken_;
};

}  // namespace patchflow
