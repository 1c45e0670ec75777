#include "worker/job.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <memory>
#include <utility>

#include "engine/image/metadata.h"
#include "worker/encoder.h"
#include "worker/previewer.h"

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

// Where a picture comes from, which a preview tells too; nothing if its image doesn't.
Metadata MarkOf(const Metadata& metadata) {
  Metadata mark;
  std::copy_if(metadata.begin(), metadata.end(), std::back_inserter(mark),
               [](const auto& pair) { return pair.first == kDigitalSourceType; });
  return mark;
}

}  // namespace

RanksEnd RunRanks(RankGroup& group, const Job& job, const std::stop_token& stop, JobEvents& events,
                  const std::shared_ptr<JobAgreement>& agreement, Encoder& encoder,
                  const std::function<void()>& await_earlier) {
  std::shared_ptr<Encoder::Encoding> encoding;  // Of the image before; its destructor waits.
  const auto rest = [&]() -> std::function<absl::Status()> {
    if (encoding == nullptr) return nullptr;
    return [encoding] { return encoding->Wait(); };
  };
  std::unique_ptr<Previewer> previewer;
  int number = 0;
  for (const JobImage& image : job.images) {
    std::vector<RankTrace> traces;
    ImageRequest request = image.request;
    if (request.preview.every_steps > 0) {
      if (previewer == nullptr) {
        previewer = std::make_unique<Previewer>(events, MarkOf(image.encode.metadata));
      }
      request.preview.show = previewer->Of(image.index);
    }
    absl::StatusOr<Generated> made = group.Run(
        request, stop,
        [&](Phase phase, int steps_done) {
          events.OnPhase(image.index, JobPhaseOf(phase), steps_done);
        },
        &traces, AgreedFor(agreement, number++));
    if (previewer != nullptr) previewer->Finish();
    events.OnTrace(image.index, traces);
    if (!made.ok()) return {made.status(), rest()};
    if (encoding != nullptr) {
      if (const absl::Status status = encoding->Wait(); !status.ok()) return {status, nullptr};
    } else if (made->image.has_value() && await_earlier) {
      await_earlier();
    }
    if (!made->image.has_value()) continue;
    events.OnPhase(image.index, JobPhase::kEncode, image.request.steps);
    encoding = encoder.Begin(image, *std::move(made), image.encode, events);
  }
  return {absl::OkStatus(), rest()};
}

absl::Status RunJob(RankGroup& group, const Job& job, const std::stop_token& stop,
                    JobEvents& events) {
  Encoder encoder;
  const RanksEnd end = RunRanks(group, job, stop, events, nullptr, encoder);
  const absl::Status last = end.last_image ? end.last_image() : absl::OkStatus();
  return last.ok() ? end.status : last;
}

}  // namespace patchflow
