// Protos <-> the engine's structs: the only place.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "patchflow/worker/v1/worker.pb.h"
#include "worker/device_fault.h"
#include "worker/job.h"
#include "worker/offer.h"

namespace patchflow {

inline constexpr int kMaxCount = 16;             // Images of a request.
inline constexpr int kMaxPromptBytes = 8 << 10;  // Each of prompt and negative prompt.

// INVALID_ARGUMENT / INVALID_REQUEST for what a front end must not send, every field at once. What
// depends on the model is left to the engine.
absl::StatusOr<Job> JobOf(const worker::v1::ExecuteRequest& request);

worker::v1::StepEvent StepEventOf(int image_index, JobPhase phase, int steps_done);
v1::Preview PreviewOf(int image_index, int steps_done, std::string png);
// Without sent_ns.
worker::v1::ImageTrace ImageTraceOf(int image_index, RankTrace::Clock::time_point received,
                                    const std::vector<RankTrace>& ranks);
v1::ImageHeader ImageHeaderOf(const FinishedImage& image);
worker::v1::ImageDone ImageDoneOf(const FinishedImage& image);

worker::v1::WorkerState StateOf(WorkerState state);
worker::v1::DeviceFault DeviceFaultOf(const DeviceFault& fault);
v1::Model ModelOf(const Offer& offer, const std::string& layout);
worker::v1::RankStatus RankStatusOf(int rank, const RankFigures& figures);
int64_t NanosecondsOf(RankTrace::Clock::time_point when);
google::protobuf::Duration DurationOf(absl::Duration duration);

}  // namespace patchflow
