#include "engine/models/pixart_layers.h"

#include <ATen/ATen.h>

#include "engine/attention_cpu.h"
#include "engine/models/pixart_layers_cpu.h"
#ifdef PATCHFLOW_CUDA
#include "engine/models/pixart_layers_fp8.h"
#include "engine/models/pixart_layers_sm90.h"
#endif

namespace patchflow {
namespace {

// x / (1 + exp(-2 u)) = x (1 + tanh u) / 2, without the tanh, which is what takes the time on CPUs.
Tensor TanhGelu(const Tensor& x) {
  constexpr double kTwiceRootTwoOverPi = 1.5957691216057308;
  const Tensor one = at::scalar_tensor(kTwiceRootTwoOverPi, x.options());
  Tensor gate = at::addcmul(one, x, x, kTwiceRootTwoOverPi * 0.044715);
  return gate.mul_(x).sigmoid_().mul_(x);
}

class AtenLayers final : public PixArtLayers {
 public:
  AtenLayers(at::ScalarType dtype, double norm_eps) : dtype_(dtype), norm_eps_(norm_eps) {}

  at::ScalarType modulation_dtype() const override { return dtype_; }

  Tensor Normed(const Tensor& h_BSE, const Tensor& scale_E, const Tensor& shift_E) override {
    return at::layer_norm(h_BSE, {h_BSE.size(2)}, scale_E, shift_E, norm_eps_);
  }

  Tensor Product(const Linear& layer, const Tensor& x_BSE) override { return layer(x_BSE); }

  Tensor Gelu(const Linear& layer, const Tensor& x_BSE) override {
    if (x_BSE.is_cpu()) {
      return TanhGelu(layer(x_BSE));
    }
    if (layer.weight_OI.numel() == 0) {
      return layer(x_BSE);
    }
    // On GPUs this is the tanh form, fused.
    const Tensor y = at::_addmm_activation(layer.bias_O, x_BSE.flatten(0, 1), layer.weight_OI.t(),
                                           1, 1, /*use_gelu=*/true);
    return y.view({x_BSE.size(0), x_BSE.size(1), y.size(1)});
  }

  Tensor Residual(const Tensor& h_BSE, const RowLinear& layer, const Tensor& x_BSI,
                  const Tensor& gate_E, PartialSum& tensor_axis, SumInto into) override {
    const Tensor y_BSE = layer(x_BSI, tensor_axis);
    if (into == SumInto::kNew) {
      return gate_E.defined() ? at::addcmul(h_BSE, y_BSE, gate_E) : at::add(h_BSE, y_BSE);
    }
    return gate_E.defined() ? h_BSE.addcmul_(y_BSE, gate_E) : h_BSE.add_(y_BSE);
  }

 private:
  at::ScalarType dtype_;
  double norm_eps_;
};

}  // namespace

Tensor PixArtLayers::NormedProduct(const Linear& layer, const Tensor& h_BSE,
                                   const Modulation& modulation) {
  return Product(layer, Normed(h_BSE, modulation.scale_E, modulation.shift_E));
}

Tensor PixArtLayers::Mlp(const Tensor& h_BSE, const MlpLayers& layers, const Modulation& modulation,
                         PartialSum& tensor_axis) {
  const Tensor hidden_BSF = Gelu(layers.up, Normed(h_BSE, modulation.scale_E, modulation.shift_E));
  return Residual(h_BSE, layers.down, hidden_BSF, modulation.gate_E, tensor_axis, SumInto::kSame);
}

FoldedText PixArtLayers::Fold(const Linear& /*q*/, const RowLinear& /*out*/,
                              const Tensor& /*kv_BL2HD*/, const Tensor& /*bias_B11L*/) const {
  return {};
}

Tensor PixArtLayers::AttendFolded(const Tensor& /*h_BSE*/, const FoldedText& /*text*/,
                                  PartialSum& /*tensor_axis*/) {
  TORCH_CHECK(false, "attention to a folded text: of layers that fold none");
}

std::unique_ptr<PixArtLayers> MakeAtenLayers(at::ScalarType dtype, double norm_eps) {
  return std::make_unique<AtenLayers>(dtype, norm_eps);
}

absl::Status CheckLayers(const PixArtLayersOptions& options) {
  if (options.dtype != at::kFloat8_e4m3fn) return absl::OkStatus();
#ifdef PATCHFLOW_CUDA
  if (options.device.is_cuda()) return CheckFp8Layers(options);
#endif
  return absl::InvalidArgumentError("float8: CPUs compute in float32 alone");
}

std::unique_ptr<PixArtLayers> MakeLayers(const PixArtLayersOptions& options) {
#ifdef PATCHFLOW_CUDA
  if (options.dtype == at::kFloat8_e4m3fn) {
    return MakeFp8Layers(options.norm_eps);
  }
  if (Sm90LayersServe(options)) {
    return MakeSm90Layers(options.norm_eps);
  }
#endif
  const CpuKernels* const cpu = CpuKernelsHere();
  if (options.device.is_cpu() && options.dtype == at::kFloat && cpu != nullptr) {
    return MakeCpuLayers(*cpu, options.norm_eps);
  }
  return MakeAtenLayers(options.dtype, options.norm_eps);
}

}  // namespace patchflow
