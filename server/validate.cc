#include "server/validate.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/errors.h"

namespace patchflow {
namespace {

constexpr uint64_t kMaxSeed = (uint64_t{1} << 53) - 1;
constexpr int kMaxWebpSide = 16383;
constexpr int kMaxJpegSide = 65535;
constexpr int kDefaultQuality = 90;
constexpr int kMaxChunkBytes = 1 << 20;
constexpr int kMinChunkBytes = 1024;
constexpr int kMaxPreviewEdge = 4096;
constexpr int64_t kMaxTimeoutSeconds = 7 * 24 * 3600;

// Wrong fields, and whether all of them only exceed a limit.
class Faults {
 public:
  void Invalid(const std::string& field, const std::string& description) {
    fields_.push_back({field, description});
    only_limits_ = false;
  }
  template <typename Number>
  void Above(const std::string& field, const char* limit_name, Number value, Number limit) {
    fields_.push_back(
        {field, absl::StrCat(value, " is above the limit of ", limit, " (", limit_name, ")")});
    metadata_ = {{"field", field},
                 {"limit_name", limit_name},
                 {"limit", absl::StrCat(limit)},
                 {"value", absl::StrCat(value)}};
  }
  absl::Status status() const {
    if (fields_.empty()) {
      return absl::OkStatus();
    }
    return FieldErrors(only_limits_ ? reason::kLimitExceeded : reason::kInvalidRequest, fields_,
                       only_limits_ && fields_.size() == 1 ? metadata_ : ErrorMetadata{});
  }

 private:
  std::vector<FieldError> fields_;
  ErrorMetadata metadata_;
  bool only_limits_ = true;
};

void CheckRequestId(const std::string& id, bool required, Faults& faults) {
  if (id.empty()) {
    if (required) {
      faults.Invalid("request_id", "is required");
    }
  } else if (id.size() > 64) {
    faults.Invalid("request_id", absl::StrCat("has ", id.size(), " bytes; at most 64 are allowed"));
  } else if (id.find_first_not_of(
                 "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") !=
             std::string::npos) {
    faults.Invalid("request_id", "may only have letters, digits, '.', '_' and '-'");
  }
}

void CheckText(const std::string& field, const std::string& text, int max_bytes, Faults& faults) {
  if (text.size() > static_cast<size_t>(max_bytes)) {
    faults.Invalid(
        field, absl::StrCat("has ", text.size(), " bytes; at most ", max_bytes, " are allowed"));
  }
  const size_t nul = text.find('\0');
  if (nul != std::string::npos) {
    faults.Invalid(field, absl::StrCat("has a NUL character at byte ", nul));
  }
}

void CheckSide(const std::string& field, int value, const v1::ModelLimits& limits, Faults& faults) {
  if (value < limits.min_size()) {
    faults.Invalid(field, absl::StrCat(value, " is less than ", limits.min_size()));
  } else if (limits.size_multiple() > 1 && value % limits.size_multiple() != 0) {
    faults.Invalid(field, absl::StrCat(value, " is not a multiple of ", limits.size_multiple()));
  } else if (value > limits.max_size()) {
    faults.Above(field, "max_size", value, limits.max_size());
  }
}

void CheckImage(const v1::EffectiveParams& params, const v1::ModelLimits& limits, Faults& faults) {
  CheckSide("image.width", params.width(), limits, faults);
  CheckSide("image.height", params.height(), limits, faults);
  const int64_t pixels = int64_t{params.width()} * params.height();
  if (params.width() > 0 && params.height() > 0 && params.width() <= limits.max_size() &&
      params.height() <= limits.max_size() && pixels > limits.max_pixels()) {
    faults.Above("image", "max_pixels", pixels, limits.max_pixels());
  }
  if (params.count() < 1) {
    faults.Invalid("image.count", absl::StrCat(params.count(), " is less than 1"));
  } else if (params.count() > limits.max_count()) {
    faults.Above("image.count", "max_count", params.count(), limits.max_count());
  }
}

void CheckSampling(const v1::EffectiveParams& params, const v1::Model& model, Faults& faults) {
  const v1::ModelLimits& limits = model.limits();
  if (params.steps() < 1) {
    faults.Invalid("sampling.steps", absl::StrCat(params.steps(), " is less than 1"));
  } else if (params.steps() > limits.max_steps()) {
    faults.Above("sampling.steps", "max_steps", params.steps(), limits.max_steps());
  }
  const float guidance = params.guidance_scale();
  if (!std::isfinite(guidance) || guidance < 1) {
    faults.Invalid("sampling.guidance_scale",
                   absl::StrCat(guidance, std::isfinite(guidance) ? " is less than 1"
                                                                  : " is not a finite number"));
  } else if (guidance > limits.max_guidance_scale()) {
    faults.Above("sampling.guidance_scale", "max_guidance_scale", guidance,
                 limits.max_guidance_scale());
  }
  if (params.seed() > kMaxSeed) {
    faults.Invalid("sampling.seed",
                   absl::StrCat(params.seed(), " is more than ", kMaxSeed, " (2^53 - 1)"));
  }
  const auto& known = model.schedulers();
  if (std::find(known.begin(), known.end(), params.scheduler()) == known.end()) {
    faults.Invalid("sampling.scheduler", absl::StrCat("'", CutText(params.scheduler(), 64),
                                                      "' is none of ", absl::StrJoin(known, ", ")));
  }
}

void CheckOutput(const v1::OutputSpec& output, const v1::EffectiveParams& params,
                 const v1::Model& model, Faults& faults) {
  if (!v1::ImageFormat_IsValid(output.format())) {
    faults.Invalid("output.format",
                   absl::StrCat(static_cast<int>(output.format()), " is no ImageFormat"));
  } else if (std::find(model.formats().begin(), model.formats().end(), params.format()) ==
             model.formats().end()) {
    faults.Invalid("output.format", absl::StrCat(v1::ImageFormat_Name(params.format()),
                                                 " is not offered by this model"));
  }
  if (output.has_quality() && (output.quality() < 1 || output.quality() > 100)) {
    faults.Invalid("output.quality", absl::StrCat(output.quality(), " is not in 1 to 100"));
  }
  const int side = std::max(params.width(), params.height());
  const int most = params.format() == v1::IMAGE_FORMAT_WEBP   ? kMaxWebpSide
                   : params.format() == v1::IMAGE_FORMAT_JPEG ? kMaxJpegSide
                                                              : side;
  if (side > most) {
    faults.Invalid("output.format", absl::StrCat(v1::ImageFormat_Name(params.format()),
                                                 " holds at most ", most, " pixels a side"));
  }
}

void CheckStream(const v1::StreamOptions& options, const std::string& prefix, Faults& faults) {
  const auto not_negative = [&](const char* field, int value) {
    if (value < 0) {
      faults.Invalid(prefix + field, absl::StrCat(value, " is negative"));
    }
  };
  not_negative("progress_every_steps", options.progress_every_steps());
  not_negative("preview_every_steps", options.preview_every_steps());
  not_negative("preview_max_edge", options.preview_max_edge());
  if (options.preview_max_edge() > kMaxPreviewEdge) {
    faults.Above(prefix + "preview_max_edge", "max_preview_edge", options.preview_max_edge(),
                 kMaxPreviewEdge);
  }
  const int chunk = options.max_chunk_bytes();
  if (chunk != 0 && (chunk < kMinChunkBytes || chunk > kMaxChunkBytes)) {
    faults.Invalid(prefix + "max_chunk_bytes",
                   absl::StrCat(chunk, " is not 0 or in ", kMinChunkBytes, " to ", kMaxChunkBytes));
  }
}

void CheckScheduling(const v1::SchedulingHints& hints, Faults& faults) {
  if (!v1::Priority_IsValid(hints.priority())) {
    faults.Invalid("scheduling.priority",
                   absl::StrCat(static_cast<int>(hints.priority()), " is no Priority"));
  }
  if (!v1::DisconnectPolicy_IsValid(hints.on_disconnect())) {
    faults.Invalid("scheduling.on_disconnect", absl::StrCat(static_cast<int>(hints.on_disconnect()),
                                                            " is no DisconnectPolicy"));
  }
  if (hints.has_timeout()) {
    const auto& timeout = hints.timeout();
    const bool positive = timeout.seconds() >= 0 && timeout.nanos() >= 0 &&
                          timeout.nanos() < 1000000000 &&
                          (timeout.seconds() > 0 || timeout.nanos() > 0);
    if (!positive || timeout.seconds() > kMaxTimeoutSeconds) {
      faults.Invalid("scheduling.timeout",
                     absl::StrCat(timeout.seconds(), " s and ", timeout.nanos(),
                                  " ns is not a positive duration of at most 7 days"));
    }
  }
}

v1::EffectiveParams WithDefaults(const v1::GenerateImagesRequest& request, const v1::Model& model) {
  v1::EffectiveParams params;
  const v1::ModelDefaults& defaults = model.defaults();
  const v1::ImageSpec& image = request.image();
  params.set_width(image.has_width() ? image.width() : defaults.width());
  params.set_height(image.has_height() ? image.height() : defaults.height());
  params.set_count(image.has_count() ? image.count() : 1);
  const v1::SamplingParams& sampling = request.sampling();
  params.set_steps(sampling.has_steps() ? sampling.steps() : defaults.steps());
  params.set_guidance_scale(sampling.has_guidance_scale() ? sampling.guidance_scale()
                                                          : defaults.guidance_scale());
  params.set_seed(sampling.seed());
  params.set_scheduler(sampling.has_scheduler() ? sampling.scheduler() : defaults.scheduler());
  const v1::OutputSpec& output = request.output();
  params.set_format(output.format() == v1::IMAGE_FORMAT_UNSPECIFIED ? v1::IMAGE_FORMAT_PNG
                                                                    : output.format());
  const bool lossy =
      params.format() == v1::IMAGE_FORMAT_JPEG || params.format() == v1::IMAGE_FORMAT_WEBP;
  params.set_quality(!lossy ? 0 : output.has_quality() ? output.quality() : kDefaultQuality);
  params.set_model(model.name());
  params.set_model_digest(model.digest());
  params.set_dtype(model.dtype());
  return params;
}

}  // namespace

absl::StatusOr<v1::EffectiveParams> Validate(const v1::GenerateImagesRequest& request,
                                             const v1::Model& model) {
  Faults faults;
  const v1::EffectiveParams params = WithDefaults(request, model);
  CheckRequestId(request.request_id(), false, faults);
  if (!request.has_prompt()) {
    faults.Invalid("prompt", "is required; its text may be empty");
  }
  const int max_bytes = model.limits().max_prompt_bytes();
  CheckText("prompt.text", request.prompt().text(), max_bytes, faults);
  CheckText("prompt.negative_text", request.prompt().negative_text(), max_bytes, faults);
  CheckImage(params, model.limits(), faults);
  CheckSampling(params, model, faults);
  CheckOutput(request.output(), params, model, faults);
  CheckStream(request.stream(), "stream.", faults);
  CheckScheduling(request.scheduling(), faults);
  if (absl::Status status = faults.status(); !status.ok()) {
    return status;
  }
  return params;
}

absl::Status ValidateUnarySize(const v1::EffectiveParams& params, int64_t max_unary_bytes) {
  const int64_t bytes = int64_t{3} * params.width() * params.height() * params.count();
  Faults faults;
  if (bytes > max_unary_bytes) {
    faults.Above("generation.image", "max_unary_bytes", bytes, max_unary_bytes);
  }
  return faults.status();
}

absl::Status ValidateStreamOptions(const v1::StreamOptions& options, const std::string& prefix) {
  Faults faults;
  CheckStream(options, prefix, faults);
  return faults.status();
}

absl::Status ValidateJoin(const v1::GenerateImagesRequest& request) {
  Faults faults;
  CheckStream(request.stream(), "stream.", faults);
  CheckScheduling(request.scheduling(), faults);
  return faults.status();
}

absl::Status ValidateRequestId(const std::string& request_id, bool required) {
  Faults faults;
  CheckRequestId(request_id, required, faults);
  return faults.status();
}

}  // namespace patchflow
