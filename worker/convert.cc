#include "worker/convert.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/sampler.h"
#include "worker/devices.h"

namespace patchflow {
namespace {

constexpr int kMaxPreviewEdgePx = 4096;
constexpr uint64_t kMaxSeed = (uint64_t{1} << 53) - 1;
constexpr int kMaxEncodeThreads = 8;  // 20 ms for 1024 px: bench/results/end_to_end_h200.json.

constexpr std::array kFormats = {
    std::pair{v1::IMAGE_FORMAT_PNG, ImageFormat::kPng},
    std::pair{v1::IMAGE_FORMAT_JPEG, ImageFormat::kJpeg},
    std::pair{v1::IMAGE_FORMAT_WEBP, ImageFormat::kWebp},
    std::pair{v1::IMAGE_FORMAT_RAW_RGB8, ImageFormat::kRawRgb8},
};

// By Phase and by JobPhase, which has one more.
constexpr std::array kPhases = {worker::v1::JOB_PHASE_TEXT, worker::v1::JOB_PHASE_DENOISE,
                                worker::v1::JOB_PHASE_DECODE, worker::v1::JOB_PHASE_ENCODE};

v1::ImageFormat FormatOf(ImageFormat format) {
  const auto* known = std::find_if(kFormats.begin(), kFormats.end(),
                                   [&](const auto& pair) { return pair.second == format; });
  return known == kFormats.end() ? v1::IMAGE_FORMAT_UNSPECIFIED : known->first;
}

void AddTiming(const char* stage, absl::Duration duration, worker::v1::ImageDone& done) {
  v1::StageTiming& timing = *done.add_timings();
  timing.set_stage(stage);
  *timing.mutable_duration() = DurationOf(duration);
}

// Every field that is wrong.
std::vector<std::string> Faults(const worker::v1::ExecuteRequest& request) {
  std::vector<std::string> faults;
  const auto check = [&](bool good, const std::string& fault) {
    if (!good) faults.push_back(fault);
  };
  const v1::EffectiveParams& params = request.params();
  check(request.has_params(), "params: not set");
  check(std::any_of(kFormats.begin(), kFormats.end(),
                    [&](const auto& pair) { return pair.first == params.format(); }),
        absl::StrCat("params.format: ", params.format(), " is not a format"));
  check(params.quality() >= 0 && params.quality() <= 100,
        absl::StrCat("params.quality: ", params.quality(), " is not in 0 .. 100"));
  check(params.seed() <= kMaxSeed,
        absl::StrCat("params.seed: ", params.seed(), " is over ", kMaxSeed));
  check(static_cast<int>(request.prompt().size()) <= kMaxPromptBytes,
        absl::StrCat("prompt: ", request.prompt().size(), " bytes, limit ", kMaxPromptBytes));
  check(static_cast<int>(request.negative_prompt().size()) <= kMaxPromptBytes,
        absl::StrCat("negative_prompt: ", request.negative_prompt().size(), " bytes, limit ",
                     kMaxPromptBytes));
  check(!request.image_indices().empty() && request.image_indices_size() <= kMaxCount,
        absl::StrCat("image_indices: ", request.image_indices_size(), " images, limit 1 .. ",
                     kMaxCount));
  check(request.preview_every_steps() >= 0,
        absl::StrCat("preview_every_steps: ", request.preview_every_steps(), " is below 0"));
  check(request.preview_max_edge() >= 0 && request.preview_max_edge() <= kMaxPreviewEdgePx,
        absl::StrCat("preview_max_edge: ", request.preview_max_edge(), " is not in 0 .. ",
                     kMaxPreviewEdgePx));
  check(request.file_metadata_size() <= 1 ||
            request.file_metadata_size() == request.image_indices_size(),
        absl::StrCat("file_metadata: ", request.file_metadata_size(), " for ",
                     request.image_indices_size(),
                     " images; must be none, one for all, or one each"));
  for (const int index : request.image_indices()) {
    check(index >= 0 && index < kMaxCount,
          absl::StrCat("image_indices: ", index, " is not in 0 .. ", kMaxCount - 1));
  }
  return faults;
}

// Of the image that stands at `place` in image_indices.
EncodeOptions EncodingOf(const worker::v1::ExecuteRequest& request, size_t place) {
  EncodeOptions options;
  for (const auto& [proto, format] : kFormats) {
    if (proto == request.params().format()) options.format = format;
  }
  options.quality = request.params().quality();
  options.threads = std::min(UsableCores(), kMaxEncodeThreads);
  if (const int told = request.file_metadata_size(); told > 0) {
    const auto& entries = request.file_metadata(told == 1 ? 0 : static_cast<int>(place)).entries();
    options.metadata.assign(entries.begin(), entries.end());
    std::sort(options.metadata.begin(), options.metadata.end());
  }
  return options;
}

}  // namespace

int64_t NanosecondsOf(RankTrace::Clock::time_point when) {
  return std::chrono::nanoseconds(when.time_since_epoch()).count();
}

google::protobuf::Duration DurationOf(absl::Duration duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

absl::StatusOr<Job> JobOf(const worker::v1::ExecuteRequest& request) {
  if (const std::vector<std::string> faults = Faults(request); !faults.empty()) {
    return WithEngineReason(absl::InvalidArgumentError(absl::StrJoin(faults, "\n")),
                            "INVALID_REQUEST");
  }
  const v1::EffectiveParams& params = request.params();
  Job job;
  job.request_id = request.request_id();
  job.owner = {request.ownership().owner(), request.ownership().epoch()};
  job.number = request.job();
  job.traceparent = request.traceparent();
  for (const int index : request.image_indices()) {
    job.images.push_back({.index = index,
                          .request = {.prompt = request.prompt(),
                                      .negative_prompt = request.negative_prompt(),
                                      .width_px = params.width(),
                                      .height_px = params.height(),
                                      .steps = params.steps(),
                                      .guidance_scale = params.guidance_scale(),
                                      .scheduler = params.scheduler(),
                                      .seed = params.seed() + static_cast<uint64_t>(index),
                                      .preview = {.every_steps = request.preview_every_steps(),
                                                  .max_edge_px = request.preview_max_edge()}},
                          .encode = EncodingOf(request, job.images.size())});
  }
  return job;
}

worker::v1::StepEvent StepEventOf(int image_index, JobPhase phase, int steps_done) {
  worker::v1::StepEvent event;
  event.set_image_index(image_index);
  event.set_phase(kPhases.at(static_cast<size_t>(phase)));
  event.set_steps_done(steps_done);
  return event;
}

v1::Preview PreviewOf(int image_index, int steps_done, std::string png) {
  v1::Preview preview;
  preview.set_image_index(image_index);
  preview.set_step(steps_done);
  preview.set_format(v1::IMAGE_FORMAT_PNG);
  preview.set_data(std::move(png));
  return preview;
}

worker::v1::ImageTrace ImageTraceOf(int image_index, RankTrace::Clock::time_point received,
                                    const std::vector<RankTrace>& ranks) {
  worker::v1::ImageTrace trace;
  trace.set_image_index(image_index);
  trace.set_received_ns(NanosecondsOf(received));
  for (const RankTrace& rank : ranks) {
    worker::v1::RankTrace& out = *trace.add_ranks();
    out.set_rank(rank.rank);
    for (const RankTrace::PhaseSpan& span : rank.phases) {
      worker::v1::PhaseSpan& phase = *out.add_phases();
      phase.set_phase(kPhases.at(static_cast<size_t>(span.phase)));
      phase.set_begin_ns(NanosecondsOf(span.begin));
      phase.set_end_ns(NanosecondsOf(span.end));
    }
    if (rank.steps_begin.has_value()) out.set_steps_begin_ns(NanosecondsOf(*rank.steps_begin));
    for (const absl::Duration time : rank.step_times) {
      out.add_step_times_ns(absl::ToInt64Nanoseconds(time));
    }
  }
  return trace;
}

v1::ImageHeader ImageHeaderOf(const FinishedImage& image) {
  v1::ImageHeader header;
  header.set_image_index(image.index);
  header.set_format(FormatOf(image.format));
  header.set_width(image.width_px);
  header.set_height(image.height_px);
  header.set_seed(image.seed);
  header.set_total_bytes(image.bytes.size());
  header.set_sha256(image.sha256);
  return header;
}

worker::v1::ImageDone ImageDoneOf(const FinishedImage& image) {
  worker::v1::ImageDone done;
  done.set_image_index(image.index);
  AddTiming("text_encode", image.times.text, done);
  AddTiming("denoise", image.times.denoise, done);
  AddTiming("vae_decode", image.times.decode, done);
  AddTiming("encode_image", image.encode_time, done);
  done.set_peak_memory_bytes(static_cast<uint64_t>(image.peak_memory_bytes));
  for (const absl::Duration time : image.step_times) *done.add_step_times() = DurationOf(time);
  worker::v1::PhaseSpan& encode = *done.mutable_encode();
  encode.set_phase(worker::v1::JOB_PHASE_ENCODE);
  encode.set_begin_ns(NanosecondsOf(image.encode_begin));
  encode.set_end_ns(encode.begin_ns() + absl::ToInt64Nanoseconds(image.encode_time));
  return done;
}

worker::v1::WorkerState StateOf(WorkerState state) {
  constexpr std::array kStates = {
      worker::v1::WORKER_STATE_LOADING, worker::v1::WORKER_STATE_READY,
      worker::v1::WORKER_STATE_BUSY,    worker::v1::WORKER_STATE_FAILED,
      worker::v1::WORKER_STATE_WAITING, worker::v1::WORKER_STATE_WARMING};
  return kStates.at(static_cast<size_t>(state));
}

worker::v1::DeviceFault DeviceFaultOf(const DeviceFault& fault) {
  constexpr std::array kKinds = {
      worker::v1::DEVICE_FAULT_KIND_XID, worker::v1::DEVICE_FAULT_KIND_ECC,
      worker::v1::DEVICE_FAULT_KIND_NVLINK, worker::v1::DEVICE_FAULT_KIND_CUDA_ERROR};
  worker::v1::DeviceFault told;
  told.set_kind(kKinds.at(static_cast<size_t>(fault.kind)));
  told.set_code(fault.code);
  told.set_device(fault.device);
  told.set_text(fault.text);
  return told;
}

v1::Model ModelOf(const Offer& offer, const std::string& layout) {
  const ModelDescription& description = offer.description;
  const int multiple_px = description.size_multiple_px();
  v1::Model model;
  model.set_ready(true);
  model.set_digest(offer.model_digest);
  model.set_architecture(description.architecture);
  v1::ModelDefaults& defaults = *model.mutable_defaults();
  defaults.set_width(description.default_size_px());
  defaults.set_height(description.default_size_px());
  defaults.set_steps(description.default_steps);
  defaults.set_guidance_scale(static_cast<float>(description.default_guidance_scale));
  defaults.set_scheduler(description.default_scheduler);
  v1::ModelLimits& limits = *model.mutable_limits();
  limits.set_min_size(multiple_px);
  limits.set_max_size(kMaxSizePx);
  limits.set_size_multiple(multiple_px);
  limits.set_max_pixels(offer.max_pixels);
  limits.set_max_count(kMaxCount);
  limits.set_max_steps(kMaxSteps);
  limits.set_max_guidance_scale(kMaxGuidanceScale);
  limits.set_max_prompt_bytes(kMaxPromptBytes);
  limits.set_max_prompt_tokens(description.transformer.max_text_tokens);
  for (const std::string_view name : Sampler::Names()) model.add_schedulers(std::string(name));
  for (const auto& [proto, format] : kFormats) model.add_formats(proto);
  model.add_layouts(layout);
  model.set_dtype(offer.dtype);
  model.set_device(offer.device);
  return model;
}

worker::v1::RankStatus RankStatusOf(int rank, const RankFigures& figures) {
  worker::v1::RankStatus status;
  status.set_rank(rank);
  status.set_memory_used_bytes(static_cast<uint64_t>(figures.memory_used_bytes));
  status.set_memory_peak_bytes(static_cast<uint64_t>(figures.memory_peak_bytes));
  status.set_memory_total_bytes(static_cast<uint64_t>(figures.memory_total_bytes));
  status.set_memory_reserved_bytes(static_cast<uint64_t>(figures.memory_reserved_bytes));
  status.set_device_used_bytes(static_cast<uint64_t>(figures.device_used_bytes));
  status.set_device_peak_bytes(static_cast<uint64_t>(figures.device_peak_bytes));
  status.set_communication_bytes(static_cast<uint64_t>(figures.communication_bytes));
  for (const CommunicationTime& time : figures.communication_times) {
    worker::v1::CommunicationTime& out = *status.add_communication_times();
    out.set_operation(time.operation);
    out.set_calls(time.calls);
    out.set_bytes(static_cast<uint64_t>(time.bytes));
    *out.mutable_time() = DurationOf(time.time);
  }
  status.set_device(figures.device);
  const RankPosition& position = figures.position;
  status.set_step(position.phase.has_value() ? position.steps_done : -1);
  if (position.phase.has_value()) {
    status.set_phase(kPhases.at(static_cast<size_t>(*position.phase)));
    *status.mutable_step_age() = DurationOf(position.age);
  }
  return status;
}

}  // namespace patchflow
