// What stands between attention in a block, with the kernels chosen here and nowhere else in the
// model.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "engine/ports.h"
#include "engine/weights/weight_reader.h"

namespace patchflow {

// Where a residual is added: into memory of its own, because the caller may keep what it gave, or
// into h itself.
enum class SumInto { kNew, kSame };

// Activations [B, S, features], compute dtype, dense. One rank thread.
class PixArtLayers {
 public:
  virtual ~PixArtLayers() = default;
  // What Normed and Residual take their vectors in.
  virtual at::ScalarType modulation_dtype() const = 0;
  // scale LayerNorm(h) + shift; vectors [E].
  virtual Tensor Normed(const Tensor& h_BSE, const Tensor& scale_E, const Tensor& shift_E) = 0;
  virtual Tensor Product(const Linear& layer, const Tensor& x_BSE) = 0;
  // gelu(layer(x)), tanh form.
  virtual Tensor Gelu(const Linear& layer, const Tensor& x_BSE) = 0;
  // h + gate layer(x); an undefined gate is 1. Collective of the tensor axis.
  virtual Tensor Residual(const Tensor& h_BSE, const RowLinear& layer, const Tensor& x_BSI,
                          const Tensor& gate_E, PartialSum& tensor_axis, SumInto into) = 0;
};

// LibTorch's operations, on any device.
std::unique_ptr<PixArtLayers> MakeAtenLayers(at::ScalarType dtype, double norm_eps);

// The fused kernels of engine/kernels where they serve: bfloat16 on a Hopper GPU, all features
// multiples of 8. LibTorch's operations elsewhere.
struct PixArtLayersOptions {
  at::Device device;
  at::ScalarType dtype;
  double norm_eps;
  int64_t width;           // E
  int64_t features_grain;  // What all other feature counts held here are multiples of.
};
std::unique_ptr<PixArtLayers> MakeLayers(const PixArtLayersOptions& options);

}  // namespace patchflow
