#include "worker/job.h"

#include <functional>
#include <memory>
#include <utility>

#include "worker/encoder.h"

namespace patchflow {
namespace {

JobPhase JobPhaseOf(Phase phase) {
  switch (phase) {
    case Phase::kText:
      return JobPhase::kText;
    case Phase::kDenoise:
      return JobPhase::kDenoise;
    case Phase::kDecode:
      return JobPhase::kDecode;
  }
  return JobPhase::kText;
}

// Whether to begin a step of the image that is made as number `image`; empty without an agreement.
std::function<bool(int)> AgreedFor(const std::shared_ptr<JobAgreement>& agreement, int image) {
  if (agreement == nullptr) return nullptr;
  return [agreement, image](int step) { return agreement->Continue(StepOfJob(image, step)); };
}

}  // namespace

absl::Status RunJob(RankGroup& group, const Job& job, const std::stop_token& stop,
                    JobEvents& events, const std::shared_ptr<JobAgreement>& agreement,
                    Encoder* encoder) {
  Encoder own;
  if (encoder == nullptr) encoder = &own;
  std::unique_ptr<Encoder::Encoding> encoding;  // Of the image before; its destructor waits.
  int number = 0;
  for (const JobImage& image : job.images) {
    std::vector<RankTrace> traces;
    absl::StatusOr<Generated> made = group.Run(
        image.request, stop,
        [&](Phase phase, int steps_done) {
          events.OnPhase(image.index, JobPhaseOf(phase), steps_done);
        },
        &traces, AgreedFor(agreement, number++));
    events.OnTrace(image.index, traces);
    if (encoding != nullptr) {
      if (const absl::Status status = encoding->Wait(); !status.ok()) return status;
    }
    if (!made.ok()) return made.status();
    if (!made->image.has_value()) continue;
    events.OnPhase(image.index, JobPhase::kEncode, image.request.steps);
    encoding = encoder->Begin(image, *std::move(made), job.encode, events);
  }
  return encoding == nullptr ? absl::OkStatus() : encoding->Wait();
}

}  // namespace patchflow
