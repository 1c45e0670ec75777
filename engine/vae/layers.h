// The layers of the decoder, pass by pass over maps in stages.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/vae/convolution.h"
#include "engine/vae/feature_map.h"
#include "engine/vae/row_ops.h"
#include "engine/weights/weight_reader.h"

namespace patchflow {

// A product per pixel; the bias is added where the result is stored.
struct Projection {
  Tensor weight_OI;
  Tensor bias_O;  // float32
};

struct Resnet {
  GroupNorm norm1;
  Convolution conv1;
  GroupNorm norm2;
  Convolution conv2;
  std::optional<Projection> shortcut;  // Where conv1 changes the number of channels.

  // Elements a pixel of the storage that RunResnet works in.
  int64_t pitch() const { return std::max(conv1.in(), 2 * conv1.out()); }
};

struct MiddleAttention {
  GroupNorm norm;
  Linear q;
  Linear k;
  Linear v;
  Projection out;
};

struct UpBlock {
  std::vector<Resnet> resnets;
  std::optional<PhaseConvolution> upsampler;

  int64_t pitch() const;
};

// Each takes its map from the right end of a stage and leaves its result at the right end of one,
// with the moments merged. Collectives of the ranks behind run.ports, in the same order on all.

// x_hWI: beside the stage, contiguous.
FeatureMap RunConvolutionIn(const Convolution& conv, const Tensor& x_hWI, const Stage& stage,
                            const DecodeRun& run);
FeatureMap RunResnet(const Resnet& resnet, const FeatureMap& x, const Stage& stage,
                     const DecodeRun& run);
FeatureMap RunAttention(const MiddleAttention& attention, const FeatureMap& x,
                        const DecodeRun& run);
// `to` may share its storage with the stage of x: both are at the end of it.
FeatureMap RunUpsampler(const PhaseConvolution& conv, const FeatureMap& x, const Stage& to,
                        const DecodeRun& run);
// Pixels: [h, W, O], contiguous.
void RunConvolutionOut(const GroupNorm& norm, const Convolution& conv, const FeatureMap& x,
                       const Tensor& pixels_hWO, const DecodeRun& run);

// What the passes take for rows of `width` pixels of `element_bytes` an element.
SlabCost CostOf(const Convolution& conv, int64_t width, int64_t element_bytes);
SlabCost CostOf(const PhaseConvolution& conv, int64_t width, int64_t element_bytes);
// conv1 and the shortcut beside it, in a stage of `pitch`.
SlabCost CostWithShortcut(const Resnet& resnet, int64_t pitch, int64_t width,
                          int64_t element_bytes);

}  // namespace patchflow
