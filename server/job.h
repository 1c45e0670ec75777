// One run of a generation's missing images on a worker.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "patchflow/worker/v1/worker.pb.h"
#include "server/cost_model.h"
#include "server/generation.h"
#include "server/metrics.h"
#include "server/worker_client.h"

namespace patchflow {

// What a worker is asked for. Files with embedded metadata name their own seed, so they are asked
// for one at a time. `provenance_mark`: files say that a model made them, whatever else they say.
worker::v1::ExecuteRequest MakeExecuteRequest(const Generation& generation, bool provenance_mark);

// Takes a worker's events and hands whole, checked images to the generation.
class ImageCollector {
 public:
  ImageCollector(Generation& generation, CostModel& costs, const ModelMetrics& metrics);

  // INTERNAL, without an ErrorInfo, if the worker broke the rules: bytes that don't fit or have
  // another SHA-256.
  absl::Status Take(worker::v1::ExecuteResponse& event);

 private:
  absl::Status Begin(const v1::ImageHeader& header);
  absl::Status Append(const v1::ImageChunk& chunk);
  absl::Status Finish(const worker::v1::ImageDone& done);

  Generation& generation_;
  CostModel& costs_;
  const ModelMetrics& metrics_;
  std::shared_ptr<EncodedImage> image_;
};

}  // namespace patchflow
