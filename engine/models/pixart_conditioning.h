// What PixArt makes once per request: positions, modulation of every step, the caption's keys and
// values.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "engine/models/pixart_config.h"
#include "engine/models/pixart_layers.h"
#include "engine/transformer.h"
#include "engine/weights/weight_reader.h"

namespace patchflow {

// What cross-attention takes of some rows' prompts.
struct PixArtText {
  Tensor bias_B11L;                // Compute dtype, aligned: 0, or -10000 for padding.
  std::vector<Tensor> kv_BL2HD;    // Of the blocks held here, in order.
  std::vector<FoldedText> folded;  // Of the blocks held here, in place of kv; or none.

  void AddTensors(std::vector<Tensor>& all) const;
  PixArtText Clone() const;
};

// T: steps, rounded up to whole multiples of 64 so that requests of different steps have the same
// shapes.
struct PixArtConditioning final : Conditioning {
  Tensor positions_SE;   // float32, in the denoiser's order of tokens.
  Tensor modulation_TM;  // float32, 6 E columns: what every block adds to its own table.
  Tensor embedded_TE;    // float32: what the final layer adds to its table.
  int64_t images = 1;
  // On CPUs of each image of the batch, in the length that its own prompt has, so that it depends
  // on no other; elsewhere one of all rows.
  std::vector<PixArtText> texts;

  std::vector<Tensor> tensors() const override;
  std::unique_ptr<Conditioning> Clone() const override;
};

// Sine and cosine of columns, then of rows, float32 [grid.size(), width] in raster order.
// Coordinates run over base_grid whatever the size of the grid.
Tensor PixArtPositions(TokenGrid grid, int64_t width, int64_t base_grid, double interpolation_scale,
                       at::Device device);

// Two linear layers with SiLU between them, over a sinusoid of 256 features.
struct SinusoidEmbedder {
  Linear first;
  Linear second;
  Tensor operator()(const Tensor& values_T) const;  // float32 [T] -> [T, out], compute dtype.
};

// The timestep, and for some models the size of the image, as modulation: adaLN-single.
class PixArtTimestepLayers {
 public:
  PixArtTimestepLayers(const PixArtConfig& config, WeightReader reader);
  // Sets modulation_TM and embedded_TE.
  void Apply(const std::vector<double>& timesteps, TokenGrid grid, PixArtConditioning& out) const;

 private:
  Tensor SizeEmbedding(TokenGrid grid) const;

  PixArtConfig config_;
  at::Device device_;
  at::ScalarType dtype_;
  SinusoidEmbedder timestep_;
  SinusoidEmbedder resolution_;
  SinusoidEmbedder aspect_ratio_;
  Linear modulation_;
};

}  // namespace patchflow
