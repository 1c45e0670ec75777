#include "worker/warm_up.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "worker/log.h"
#include "worker/watchdog_phase.h"

namespace patchflow {
namespace {

constexpr int kOnCpusPx = 256;

absl::Status Refuse(const ImageSize& size, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(ToString(size), ": ", why));
}

bool ParseSide(const std::string& text, int* side_px) {
  return text.find_first_not_of("0123456789") == std::string::npos &&
         absl::SimpleAtoi(text, side_px) && *side_px >= 1 && *side_px <= kMaxSizePx;
}

absl::StatusOr<ImageSize> ParseSize(const std::string& text) {
  const std::vector<std::string> sides = absl::StrSplit(text, 'x');
  ImageSize size;
  if (sides.size() != 2 || !ParseSide(sides[0], &size.width_px) ||
      !ParseSide(sides[1], &size.height_px)) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not WIDTHxHEIGHT, each 1 to ",
                                                   kMaxSizePx, " px, such as 1024x1024"));
  }
  return size;
}

absl::Status CheckSize(const ImageSize& size, const ModelDescription& model, const Layout& layout,
                       int64_t max_pixels) {
  const int multiple_px = model.size_multiple_px();
  for (const auto& [side, value_px] :
       {std::pair{"width", size.width_px}, std::pair{"height", size.height_px}}) {
    if (value_px % multiple_px != 0) {
      return Refuse(size, absl::StrCat(side, " ", value_px, " is not a multiple of ", multiple_px,
                                       ", as the model needs it"));
    }
  }
  const int64_t pixels = int64_t{size.width_px} * size.height_px;
  if (pixels > max_pixels) {
    return Refuse(
        size, absl::StrCat(pixels, " pixels are above the limit of ", max_pixels, " (max_pixels)"));
  }
  const absl::Status tokens =
      CheckTokens(layout, {.h = size.height_px / multiple_px, .w = size.width_px / multiple_px});
  return tokens.ok() ? tokens : Refuse(size, std::string(tokens.message()));
}

}  // namespace

std::string ToString(const ImageSize& size) {
  return absl::StrCat(size.width_px, "x", size.height_px);
}

absl::StatusOr<std::vector<ImageSize>> ParseWarmUp(const std::string& text) {
  std::vector<ImageSize> sizes;
  if (text.empty()) return sizes;
  for (const std::string& word : std::vector<std::string>(absl::StrSplit(text, ','))) {
    const absl::StatusOr<ImageSize> size = ParseSize(word);
    if (!size.ok()) return size.status();
    if (std::find(sizes.begin(), sizes.end(), *size) != sizes.end()) {
      return Refuse(*size, "is named twice");
    }
    sizes.push_back(*size);
  }
  if (sizes.size() > kMaxWarmUpSizes) {
    return absl::InvalidArgumentError(
        absl::StrCat(sizes.size(), " sizes, limit ", kMaxWarmUpSizes));
  }
  return sizes;
}

absl::Status CheckWarmUp(const std::vector<ImageSize>& sizes, const ModelDescription& model,
                         const Layout& layout, int64_t max_pixels) {
  for (const ImageSize& size : sizes) {
    const absl::Status fits = CheckSize(size, model, layout, max_pixels);
    if (!fits.ok()) return fits;
  }
  return absl::OkStatus();
}

WarmUpPlan PlanWarmUp(std::vector<ImageSize> sizes, const ModelDescription& model,
                      const Layout& layout, bool on_gpus, double guidance_scale, int batch_size) {
  WarmUpPlan plan;
  plan.sizes = std::move(sizes);
  if (plan.sizes.empty()) {
    const int side_px =
        on_gpus ? model.default_size_px() : std::min(model.default_size_px(), kOnCpusPx);
    plan.sizes.push_back({side_px, side_px});
  }
  plan.request.steps = layout.is_stale() ? layout.warmup_steps + 2 : 2;
  plan.request.guidance_scale = guidance_scale;
  plan.request.scheduler = model.default_scheduler;
  plan.request.batch_size = batch_size;
  // DistriFusion's last step is one of its own kind, of which an image has one.
  if (on_gpus && layout.cuda_graphs && layout.distrifusion > 1) plan.images_each = 2;
  return plan;
}

absl::StatusOr<absl::Duration> WarmUp(const WarmUpPlan& plan, RankGroup& group) {
  const absl::Time start = absl::Now();
  for (const ImageSize& size : plan.sizes) {
    const absl::Time size_start = absl::Now();
    ImageRequest request = plan.request;
    request.width_px = size.width_px;
    request.height_px = size.height_px;
    for (int image = 0; image < plan.images_each; ++image) {
      const absl::Status made = group.Run(request, {}, nullptr).status();
      if (!made.ok()) {
        const absl::Status failed = WithEngineReason(
            absl::Status(made.code(),
                         absl::StrCat("warm-up of ", ToString(size), ": ", made.message())),
            EngineReasonOf(made));
        return WatchdogPhaseOf(made).empty() ? failed : WithWatchdogPhase(failed, "warm_up");
      }
    }
    Log(LogLevel::kInfo, "warmed up",
        {{"size", ToString(size)}, {"seconds", absl::ToDoubleSeconds(absl::Now() - size_start)}});
  }
  return absl::Now() - start;
}

}  // namespace patchflow
