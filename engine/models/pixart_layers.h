// What stands between attention in a block, with the kernels chosen here and nowhere else in the
// model.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/ports.h"
#include "engine/weights/weight_reader.h"

namespace patchflow {

// Where a residual is added: into memory of its own, because the caller may keep what it gave, or
// into h itself.
enum class SumInto { kNew, kSame };

// Of a weight that was laid out anew.
enum class Original { kDrop, kKeep };

struct MlpLayers {
  Linear up;
  RowLinear down;
};

struct Modulation {
  Tensor scale_E;  // 1 is in it.
  Tensor shift_E;
  Tensor gate_E;
};

// Attention to the text of one request, with the layers around it multiplied into the text: the
// scores of h W_q with k are h (W_q k), and W_o of p v is p (W_o v). A token then costs
// 2 E H L products instead of 2 E H D + 2 H L D, which is less for the few tokens of most prompts.
struct FoldedText {
  std::vector<Linear> scores;     // A batch row's: [H length, E], the mask in its bias.
  std::vector<RowLinear> values;  // A batch row's: [E, H length].
  int64_t length = 0;             // Text tokens, filled up for the kernels.
  bool defined() const { return !scores.empty(); }
};

// Activations [B, S, features], compute dtype, dense. One rank thread.
class PixArtLayers {
 public:
  virtual ~PixArtLayers() = default;
  // Lays a weight out as its products read it, once, after which kDrop lets its memory go. Of
  // kernels that read it as it is, nothing.
  virtual void Pack(Linear& /*layer*/, Original /*original*/) const {}
  virtual void Pack(RowLinear& /*layer*/, Original /*original*/) const {}
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

  // layer(Normed(h)).
  virtual Tensor NormedProduct(const Linear& layer, const Tensor& h_BSE,
                               const Modulation& modulation);
  // h + gate down(gelu(up(Normed(h)))), in h's memory. Collective of the tensor axis.
  virtual Tensor Mlp(const Tensor& h_BSE, const MlpLayers& layers, const Modulation& modulation,
                     PartialSum& tensor_axis);

  // Undefined where attention is better off with the text as it is. q and out as in the model, with
  // their weights; kv_BL2HD and bias_B11L as attention takes them.
  virtual FoldedText Fold(const Linear& q, const RowLinear& out, const Tensor& kv_BL2HD,
                          const Tensor& bias_B11L) const;
  // h + out(attention of q(h) to a folded text), in h's memory. Collective of the tensor axis.
  virtual Tensor AttendFolded(const Tensor& h_BSE, const FoldedText& text, PartialSum& tensor_axis);
};

// LibTorch's operations, on any device.
std::unique_ptr<PixArtLayers> MakeAtenLayers(at::ScalarType dtype, double norm_eps);

// The fused kernels of engine/kernels where they serve: bfloat16 on a Hopper GPU, all features
// multiples of 8; float32 on a CPU with AVX2 or AVX-512. LibTorch's operations elsewhere, but for
// float8 (e4m3): bfloat16 with the products of packed layers in 8 bits, by kernels alone.
struct PixArtLayersOptions {
  at::Device device;
  at::ScalarType dtype;
  double norm_eps;
  int64_t width;           // E
  int64_t features_grain;  // What all other feature counts held here are multiples of.
};
// OK; or INVALID_ARGUMENT that says why there are no layers of this dtype here: of float8 alone.
absl::Status CheckLayers(const PixArtLayersOptions& options);
// Of options that pass CheckLayers().
std::unique_ptr<PixArtLayers> MakeLayers(const PixArtLayersOptions& options);

}  // namespace patchflow
