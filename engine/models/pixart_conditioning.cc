#include "engine/models/pixart_conditioning.h"

#include <ATen/ATen.h>

#include <cmath>

namespace patchflow {
namespace {

constexpr int64_t kSinusoidWidth = 256;
constexpr int64_t kModulations = 6;
constexpr size_t kStepGrain = 64;
constexpr double kLongestPeriod = 10000;
constexpr int64_t kPixelsPerLatent = 8;

Tensor SinesAndCosines(int64_t count, int64_t base, double scale, int64_t features) {
  const auto wide = at::TensorOptions().dtype(at::kDouble);
  const double stretch = static_cast<double>(count) / static_cast<double>(base);
  const Tensor position = at::arange(count, at::kFloat).div_(stretch).div_(scale).to(at::kDouble);
  const auto half = static_cast<double>(features / 2);
  const Tensor exponent = at::arange(features / 2, wide).div_(half);
  const Tensor angle = at::outer(position, at::pow(kLongestPeriod, exponent).reciprocal_());
  return at::cat({angle.sin(), angle.cos()}, 1).to(at::kFloat);
}

// Cosines first, as PixArt's checkpoints were trained.
Tensor Sinusoid(const Tensor& values_T) {
  const int64_t half = kSinusoidWidth / 2;
  const Tensor exponent =
      at::arange(half, values_T.options()).mul_(-std::log(kLongestPeriod)).div_(half);
  const Tensor angle = values_T.unsqueeze(1) * exponent.exp_().unsqueeze(0);
  return at::cat({angle.cos(), angle.sin()}, 1);
}

SinusoidEmbedder ReadEmbedder(WeightReader reader, int64_t width) {
  return {reader.Replicated("linear_1", width, kSinusoidWidth),
          reader.Replicated("linear_2", width, width)};
}

}  // namespace

void PixArtText::AddTensors(std::vector<Tensor>& all) const {
  all.push_back(bias_B11L);
  all.insert(all.end(), kv_BL2HD.begin(), kv_BL2HD.end());
  for (const FoldedText& text : folded) {
    for (size_t b = 0; b < text.scores.size(); ++b) {
      all.insert(all.end(), {text.scores[b].panels.elements, text.scores[b].bias_O,
                             text.values[b].panels.elements});
    }
  }
}

PixArtText PixArtText::Clone() const {
  PixArtText copy;
  copy.bias_B11L = bias_B11L.clone();
  for (const Tensor& kv : kv_BL2HD) {
    copy.kv_BL2HD.push_back(kv.clone());
  }
  copy.folded = folded;
  for (FoldedText& text : copy.folded) {
    for (size_t b = 0; b < text.scores.size(); ++b) {
      text.scores[b].panels.elements = text.scores[b].panels.elements.clone();
      text.scores[b].bias_O = text.scores[b].bias_O.clone();
      text.values[b].panels.elements = text.values[b].panels.elements.clone();
    }
  }
  return copy;
}

std::vector<Tensor> PixArtConditioning::tensors() const {
  std::vector<Tensor> all = {positions_SE, modulation_TM, embedded_TE};
  for (const PixArtText& text : texts) {
    text.AddTensors(all);
  }
  return all;
}

std::unique_ptr<Conditioning> PixArtConditioning::Clone() const {
  auto copy = std::make_unique<PixArtConditioning>();
  copy->positions_SE = positions_SE.clone();
  copy->modulation_TM = modulation_TM.clone();
  copy->embedded_TE = embedded_TE.clone();
  copy->images = images;
  for (const PixArtText& text : texts) {
    copy->texts.push_back(text.Clone());
  }
  return copy;
}

Tensor PixArtPositions(TokenGrid grid, int64_t width, int64_t base_grid, double interpolation_scale,
                       at::Device device) {
  const int64_t half = width / 2;
  const Tensor columns = SinesAndCosines(grid.w, base_grid, interpolation_scale, half).to(device);
  const Tensor rows = SinesAndCosines(grid.h, base_grid, interpolation_scale, half).to(device);
  return at::cat({columns.unsqueeze(0).expand({grid.h, grid.w, half}),
                  rows.unsqueeze(1).expand({grid.h, grid.w, half})},
                 2)
      .view({grid.size(), width});
}

Tensor SinusoidEmbedder::operator()(const Tensor& values_T) const {
  const Tensor sinusoid = Sinusoid(values_T).to(first.weight_OI.scalar_type());
  return second(at::silu(first(sinusoid)));
}

PixArtTimestepLayers::PixArtTimestepLayers(const PixArtConfig& config, WeightReader reader)
    : config_(config), device_(reader.options().device), dtype_(reader.options().dtype) {
  const int64_t width = config.common.width();
  const WeightReader embedders = reader.In("emb");
  timestep_ = ReadEmbedder(embedders.In("timestep_embedder"), width);
  if (config.size_conditions) {
    resolution_ = ReadEmbedder(embedders.In("resolution_embedder"), width / 3);
    aspect_ratio_ = ReadEmbedder(embedders.In("aspect_ratio_embedder"), width / 3);
  }
  modulation_ = reader.Replicated("linear", kModulations * width, width);
}

// Sizes are rounded to the compute dtype first, as in diffusers, where they have that of the
// prompt.
Tensor PixArtTimestepLayers::SizeEmbedding(TokenGrid grid) const {
  const int64_t token_px = config_.common.patch_size * kPixelsPerLatent;
  const auto height_px = static_cast<double>(grid.h * token_px);
  const auto width_px = static_cast<double>(grid.w * token_px);
  const auto rounded = [this](const std::vector<double>& values) {
    return at::tensor(values, at::kDouble).to(at::kFloat).to(dtype_).to(at::kFloat).to(device_);
  };
  return at::cat({resolution_(rounded({height_px, width_px})).flatten(),
                  aspect_ratio_(rounded({height_px / width_px})).flatten()});
}

void PixArtTimestepLayers::Apply(const std::vector<double>& timesteps, TokenGrid grid,
                                 PixArtConditioning& out) const {
  std::vector<double> rows = timesteps;
  rows.resize((timesteps.size() + kStepGrain - 1) / kStepGrain * kStepGrain, 0.0);
  Tensor embedded_TE = timestep_(at::tensor(rows, at::kDouble).to(at::kFloat).to(device_));
  if (config_.size_conditions) {
    embedded_TE.add_(SizeEmbedding(grid));
  }
  out.modulation_TM = modulation_(at::silu(embedded_TE)).to(at::kFloat);
  out.embedded_TE = embedded_TE.to(at::kFloat);
}

}  // namespace patchflow
