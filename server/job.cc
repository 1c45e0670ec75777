#include "server/job.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/clock.h"
#include "server/request_trace.h"
#include "server/sha256.h"

namespace patchflow {
namespace {

// What the worker writes as IPTC's Digital Source Type (engine/image/metadata.h).
constexpr char kSourceType[] = "DigitalSourceType";
constexpr char kTrainedAlgorithmicMedia[] =
    "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia";

// So many digits that the same number is read again, and no more.
std::string ExactText(float value) {
  const std::string text = absl::StrCat(value);
  float again = 0;
  if (absl::SimpleAtof(text, &again) && again == value) return text;
  return absl::StrFormat("%.9g", value);
}

void AddMetadata(const Generation& generation, int index, worker::v1::FileMetadata& file) {
  const GenerationSpec& spec = generation.spec();
  const v1::EffectiveParams& params = spec.params();
  auto& metadata = *file.mutable_entries();
  metadata["software"] = spec.software;
  metadata["prompt"] = spec.prompt;
  metadata["negative_prompt"] = spec.negative_prompt;
  metadata["seed"] = absl::StrCat(params.seed() + static_cast<uint64_t>(index));
  metadata["width"] = absl::StrCat(params.width());
  metadata["height"] = absl::StrCat(params.height());
  metadata["steps"] = absl::StrCat(params.steps());
  metadata["guidance_scale"] = ExactText(params.guidance_scale());
  metadata["scheduler"] = params.scheduler();
  metadata["model"] = params.model();
  metadata["model_digest"] = params.model_digest();
  metadata["dtype"] = params.dtype();
  metadata["layout"] = params.layout();
  metadata["plan_digest"] = spec.accepted.plan_digest();
  if (params.quality() > 0) {  // Of a format that loses something.
    metadata["quality"] = absl::StrCat(params.quality());
  }
}

// No format exceeds raw pixels by more than its headers and a small share.
uint64_t MaxImageBytes(const v1::EffectiveParams& params) {
  const uint64_t raw =
      uint64_t{3} * static_cast<uint64_t>(params.width()) * static_cast<uint64_t>(params.height());
  return raw + raw / 8 + (1 << 20);
}

}  // namespace

worker::v1::ExecuteRequest MakeExecuteRequest(const Generation& generation) {
  const GenerationSpec& spec = generation.spec();
  worker::v1::ExecuteRequest request;
  request.set_request_id(spec.request_id);
  *request.mutable_params() = spec.params();
  request.set_prompt(spec.prompt);
  request.set_negative_prompt(spec.negative_prompt);
  for (int index : generation.MissingImages()) {
    request.add_image_indices(index);
    if (spec.embed_metadata) {  // Which names the seed of that very file.
      AddMetadata(generation, index, *request.add_file_metadata());
    }
  }
  if (spec.provenance_mark && !spec.embed_metadata) {
    request.add_file_metadata();
  }
  for (worker::v1::FileMetadata& file : *request.mutable_file_metadata()) {
    if (spec.provenance_mark) {
      (*file.mutable_entries())[kSourceType] = kTrainedAlgorithmicMedia;
    }
  }
  request.set_preview_every_steps(spec.preview_every_steps);
  request.set_preview_max_edge(spec.preview_max_edge);
  return request;
}

ImageCollector::ImageCollector(Generation& generation, int batch_size, CostModel& costs,
                               const ModelMetrics& metrics)
    : generation_(generation), batch_size_(batch_size), costs_(costs), metrics_(metrics) {}

absl::Status ImageCollector::Take(worker::v1::ExecuteResponse& event) {
  switch (event.event_case()) {
    case worker::v1::ExecuteResponse::kStep:
      // A worker that is read late tells the newest alone: the last step, when it decodes already.
      if (event.step().phase() != worker::v1::JOB_PHASE_TEXT) {
        generation_.SetStep(event.step().image_index(), event.step().steps_done());
      }
      return absl::OkStatus();
    case worker::v1::ExecuteResponse::kPreview:
      generation_.SetPreview(std::make_shared<v1::Preview>(std::move(*event.mutable_preview())));
      return absl::OkStatus();
    case worker::v1::ExecuteResponse::kImageHeader:
      return Begin(event.image_header());
    case worker::v1::ExecuteResponse::kImageChunk:
      return Append(event.image_chunk());
    case worker::v1::ExecuteResponse::kImageDone:
      return Finish(event.image_done());
    case worker::v1::ExecuteResponse::kImageTrace:
      if (generation_.trace() != nullptr) {
        generation_.trace()->AddReport(std::move(*event.mutable_image_trace()));
      }
      return absl::OkStatus();
    case worker::v1::ExecuteResponse::kRanksFree:
      return absl::OkStatus();
    case worker::v1::ExecuteResponse::EVENT_NOT_SET:
      break;
  }
  return absl::OkStatus();
}

absl::Status ImageCollector::Begin(const v1::ImageHeader& header) {
  const v1::EffectiveParams& params = generation_.spec().params();
  if (image_ != nullptr) {
    return absl::InternalError("an image began before the last one was done");
  }
  if (header.image_index() < 0 || header.image_index() >= params.count()) {
    return absl::InternalError(absl::StrCat("no image ", header.image_index(), " was asked for"));
  }
  if (header.total_bytes() > MaxImageBytes(params)) {
    return absl::InternalError(absl::StrCat("an image of ", header.total_bytes(), " bytes for ",
                                            params.width(), "x", params.height()));
  }
  image_ = std::make_shared<EncodedImage>();
  image_->header = header;
  image_->data.reserve(header.total_bytes());
  return absl::OkStatus();
}

absl::Status ImageCollector::Append(const v1::ImageChunk& chunk) {
  if (image_ == nullptr || chunk.image_index() != image_->header.image_index() ||
      chunk.offset() != image_->data.size() ||
      chunk.offset() + chunk.data().size() > image_->header.total_bytes()) {
    return absl::InternalError("a chunk does not fit into its image");
  }
  image_->data += chunk.data();
  return absl::OkStatus();
}

absl::Status ImageCollector::Finish(const worker::v1::ImageDone& done) {
  if (image_ == nullptr || done.image_index() != image_->header.image_index()) {
    return absl::InternalError("an image ended that had not begun");
  }
  if (image_->data.size() != image_->header.total_bytes() ||
      Sha256(image_->data) != image_->header.sha256()) {
    return absl::InternalError("an image is not what its header says");
  }
  std::map<std::string, absl::Duration> timings;
  absl::Duration overhead;
  for (const auto& timing : done.timings()) {
    const absl::Duration duration = FromProto(timing.duration());
    timings[timing.stage()] += duration;
    overhead += timing.stage() == "denoise" ? absl::ZeroDuration() : duration;
  }
  const GenerationSpec& spec = generation_.spec();
  costs_.Record(spec.accepted.plan_digest(), spec.params(), overhead, timings["denoise"]);
  metrics_.ObserveImage(spec.params(), done);
  if (generation_.trace() != nullptr && done.has_encode()) {
    generation_.trace()->AddEncode(done.image_index(), done.encode());
  }
  if (finished_++ % batch_size_ != 0) {
    std::erase_if(timings, [](const auto& timing) { return timing.first != "encode_image"; });
  }
  generation_.AddImage(done.image_index(), std::move(image_), timings, done.peak_memory_bytes());
  image_ = nullptr;
  return absl::OkStatus();
}

JobRun::JobRun(JobRunner& worker, const worker::v1::ExecuteRequest& request,
               std::shared_ptr<Generation> generation, int batch_size, CostModel& costs,
               const ModelMetrics& metrics, CancelWatch& cancels)
    : generation_(std::move(generation)),
      metrics_(metrics),
      cancels_(cancels),
      first_image_(request.image_indices_size() == 0 ? 0 : request.image_indices(0)),
      images_(request.image_indices_size()),
      call_(worker.Execute(request)),
      cancelled_at_(std::make_shared<std::atomic<Clock::time_point>>()),
      collector_(*generation_, batch_size, costs, metrics) {
  cancels_.Enter();
  generation_->SetStopper([call = call_, cancelled_at = cancelled_at_] {
    *cancelled_at = Clock::now();
    call->Cancel();
  });
}

std::function<void()> JobRun::abort() const {
  return [call = call_] { call->Abandon(); };
}

bool JobRun::Read(const std::function<void(const worker::v1::ExecuteResponse&)>& note) {
  worker::v1::ExecuteResponse event;
  while (call_->Read(event)) {
    note(event);
    if (!std::exchange(heard_, true)) {
      cancels_.Heard(began_);
    }
    if (event.has_ranks_free()) {
      LeaveRanks();
      return true;
    }
    if (broken_.ok()) {
      broken_ = collector_.Take(event);
      if (!broken_.ok()) {
        call_->Cancel();
      }
    }
  }
  return false;
}

void JobRun::LeaveRanks() {
  if (std::exchange(has_ranks_, false)) {
    cancels_.Leave();
  }
}

void JobRun::NoteCancellation() {
  const Clock::time_point cancelled = cancelled_at_->load();
  const bool had_ranks = has_ranks_;
  LeaveRanks();
  if (cancelled == Clock::time_point{}) {
    return;
  }
  const auto observe = [histogram = metrics_.cancel_running](absl::Duration time) {
    histogram->Observe(absl::ToDoubleSeconds(time));
  };
  if (had_ranks) {
    cancels_.Cancelled(cancelled, observe);
  } else {
    observe(absl::FromChrono(Clock::now() - cancelled));
  }
}

absl::Status JobRun::Finish() {
  absl::Status status = call_->Finish();
  generation_->SetStopper(nullptr);
  if (!broken_.ok()) {
    status = broken_;
  } else if (status.ok() && !generation_->ended()) {
    const auto missing = generation_->MissingImages();
    if (!missing.empty() && missing.front() == first_image_) {
      status = absl::InternalError("the call ended without the image that was asked for");
    }
  }
  NoteCancellation();
  if (generation_->trace() != nullptr) {
    generation_->trace()->EndRun(status);
  }
  return status;
}

}  // namespace patchflow
