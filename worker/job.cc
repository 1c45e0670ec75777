#include "worker/job.h"

#include <functional>
#include <future>
#include <memory>
#include <utility>

#include "engine/status_of.h"
#include "worker/digest.h"

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

absl::StatusOr<FinishedImage> Encode(const JobImage& asked, Generated made,
                                     const EncodeOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  FinishedImage image{.index = asked.index,
                      .seed = asked.request.seed,
                      .width_px = made.image->width_px,
                      .height_px = made.image->height_px,
                      .format = options.format,
                      .bytes = {},
                      .sha256 = {},
                      .times = made.times,
                      .encode_begin = begin,
                      .encode_time = {},
                      .step_times = std::move(made.step_times),
                      .peak_memory_bytes = made.peak_memory_bytes};
  absl::StatusOr<std::string> bytes = EncodeImage(*made.image, options);
  if (!bytes.ok()) return bytes.status();
  image.bytes = *std::move(bytes);
  image.sha256 = Sha256(image.bytes);
  image.encode_time = absl::FromChrono(std::chrono::steady_clock::now() - begin);
  return image;
}

absl::Status EncodeAndHandOver(const JobImage& asked, Generated made, const EncodeOptions& options,
                               JobEvents& events) {
  absl::StatusOr<FinishedImage> image =
      StatusOrOfThrowing<FinishedImage>([&] { return Encode(asked, std::move(made), options); });
  if (!image.ok()) return image.status();
  events.OnImage(*std::move(image));
  return absl::OkStatus();
}

// Whether to begin a step of the image that is made as number `image`; empty without an agreement.
std::function<bool(int)> AgreedFor(const std::shared_ptr<JobAgreement>& agreement, int image) {
  if (agreement == nullptr) return nullptr;
  return [agreement, image](int step) { return agreement->Continue(StepOfJob(image, step)); };
}

}  // namespace

absl::Status RunJob(RankGroup& group, const Job& job, const std::stop_token& stop,
                    JobEvents& events, const std::shared_ptr<JobAgreement>& agreement) {
  std::future<absl::Status> encoding;  // Of the image before; its destructor waits.
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
    if (encoding.valid()) {
      if (const absl::Status status = encoding.get(); !status.ok()) return status;
    }
    if (!made.ok()) return made.status();
    if (!made->image.has_value()) continue;
    events.OnPhase(image.index, JobPhase::kEncode, image.request.steps);
    encoding =
        std::async(std::launch::async, [&job, &image, &events, made = *std::move(made)]() mutable {
          return EncodeAndHandOver(image, std::move(made), job.encode, events);
        });
  }
  return encoding.valid() ? encoding.get() : absl::OkStatus();
}

}  // namespace patchflow
