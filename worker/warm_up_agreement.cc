#include "worker/warm_up_agreement.h"

#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/engine.h"
#include "worker/digest.h"

namespace patchflow {
namespace {

std::string SizesOf(const WarmUpPlan& plan) {
  return absl::StrJoin(plan.sizes, ",", [](std::string* text, const ImageSize& size) {
    absl::StrAppend(text, ToString(size));
  });
}

// The same on every host for plans that are alike, and, but for one of 2^31, for those alone.
int ColorOf(const WarmUpPlan& plan) {
  const std::string digest =
      Sha256(absl::StrCat(SizesOf(plan), " ", plan.images_each, " ", plan.request.steps, " ",
                          plan.request.guidance_scale, " ", plan.request.batch_size));
  uint32_t bits = 0;
  std::memcpy(&bits, digest.data(), sizeof(bits));
  return static_cast<int>(bits >> 1);
}

}  // namespace

absl::Status AgreeOnWarmUp(World& world, const WarmUpPlan& plan) {
  const int alike = world.Split(ColorOf(plan), "warm_up")->size();
  if (alike == world.size()) return absl::OkStatus();
  return WithEngineReason(
      absl::InvalidArgumentError(absl::StrCat(
          "--warm-up: this worker is to make ", SizesOf(plan), " at guidance ",
          plan.request.guidance_scale, " and batch size ", plan.request.batch_size, ", as ", alike,
          " of the group's ", world.size(),
          " ranks, and the others something else: workers of one group need the same --warm-up, "
          "--default-guidance and --batch-size")),
      "INVALID_REQUEST");
}

}  // namespace patchflow
