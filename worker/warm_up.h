// The images that a group makes before it is ready, so that what is made on first use, such as the
// CUDA graphs of a size, is made then.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "parallel/layout.h"
#include "worker/rank_group.h"

namespace patchflow {

inline constexpr size_t kMaxWarmUpSizes = 16;

struct ImageSize {
  int width_px = 0;
  int height_px = 0;
  bool operator==(const ImageSize&) const = default;
};

// "1024x512".
std::string ToString(const ImageSize& size);

// "1024x1024,1024x512"; empty for none. INVALID_ARGUMENT names what is no size of 1 to kMaxSizePx a
// side, what is named twice, and more than kMaxWarmUpSizes.
absl::StatusOr<std::vector<ImageSize>> ParseWarmUp(const std::string& text);

// Whether this model can make these sizes in this layout. INVALID_ARGUMENT names the size, the
// value and the limit.
absl::Status CheckWarmUp(const std::vector<ImageSize>& sizes, const ModelDescription& model,
                         const Layout& layout, int64_t max_pixels);

struct WarmUpPlan {
  std::vector<ImageSize> sizes;
  int images_each = 1;
  ImageRequest request;  // But for its size.

  int images() const { return images_each * static_cast<int>(sizes.size()); }
};

// `sizes` or, if there are none, the model's default one, at most 256 px a side on CPUs. Steps and
// images are so many that every CUDA graph of a size has run twice: the second time captures it.
// Graphs belong to a guidance scale and a batch size: give those of requests that name none.
WarmUpPlan PlanWarmUp(std::vector<ImageSize> sizes, const ModelDescription& model,
                      const Layout& layout, bool on_gpus, double guidance_scale,
                      int batch_size = 1);

// Makes them one after the other, each under the group's watchdog of a shape that is new, and logs
// what each size took. All of it together, or the error of the first that fails, which ends the
// rest: its code and reason, and the size in words. Blocks.
absl::StatusOr<absl::Duration> WarmUp(const WarmUpPlan& plan, RankGroup& group);

}  // namespace patchflow
