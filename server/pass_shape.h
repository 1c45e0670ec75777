// What images must have in common to be made in one pass over the network.
#pragma once

#include <string_view>
#include <tuple>

#include "patchflow/v1/image_generation.pb.h"

namespace patchflow {

// Width, height, steps, guidance scale and scheduler; besides them the plan. What may differ is in
// engine/engine.h: BatchedImage. Valid while `params` is.
using PassShape = std::tuple<int, int, int, float, std::string_view>;

inline PassShape PassShapeOf(const v1::EffectiveParams& params) {
  return {params.width(), params.height(), params.steps(), params.guidance_scale(),
          params.scheduler()};
}

}  // namespace patchflow
