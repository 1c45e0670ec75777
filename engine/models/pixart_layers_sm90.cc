#include "engine/models/pixart_layers_sm90.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include <optional>

#include "engine/kernels/gated_residual.h"
#include "engine/kernels/gemm_sm90.h"
#include "engine/kernels/norm_modulate.h"

namespace patchflow {
namespace {

constexpr int64_t kGrain = 8;

template <class T = void>
const T* DataOrNull(const Tensor& t) {
  return t.defined() ? static_cast<const T*>(t.const_data_ptr()) : nullptr;
}

int64_t RowsOf(const Tensor& x_BSE) { return x_BSE.size(0) * x_BSE.size(1); }

Tensor Empty(const Tensor& x_BSE, int64_t features) {
  return at::empty({x_BSE.size(0), x_BSE.size(1), features}, x_BSE.options());
}

class Sm90Layers final : public PixArtLayers {
 public:
  explicit Sm90Layers(double norm_eps) : norm_eps_(static_cast<float>(norm_eps)) {}

  at::ScalarType modulation_dtype() const override { return at::kFloat; }

  Tensor Normed(const Tensor& h_BSE, const Tensor& scale_E, const Tensor& shift_E) override {
    const Tensor x_BSE = h_BSE.contiguous();
    Tensor y_BSE = at::empty_like(x_BSE);
    if (y_BSE.numel() > 0) {
      C10_CUDA_CHECK(LaunchNormModulate(
          {x_BSE.const_data_ptr(), scale_E.const_data_ptr<float>(), shift_E.const_data_ptr<float>(),
           y_BSE.mutable_data_ptr(), RowsOf(x_BSE), static_cast<int>(x_BSE.size(2)), norm_eps_},
          at::cuda::getCurrentCUDAStream()));
    }
    return y_BSE;
  }

  Tensor Product(const Linear& layer, const Tensor& x_BSE) override {
    const std::optional<GemmTile> tile = TileFor(layer.weight_OI, x_BSE, GemmEpilogue::kBias);
    if (!tile) {
      return layer(x_BSE);
    }
    Tensor y_BSO = Empty(x_BSE, layer.weight_OI.size(0));
    Multiply(layer.weight_OI, x_BSE, {.bias = DataOrNull(layer.bias_O)}, GemmEpilogue::kBias, *tile,
             y_BSO);
    return y_BSO;
  }

  Tensor Gelu(const Linear& layer, const Tensor& x_BSE) override {
    const std::optional<GemmTile> tile = TileFor(layer.weight_OI, x_BSE, GemmEpilogue::kBiasGelu);
    if (!tile) {
      return stock_->Gelu(layer, x_BSE);
    }
    Tensor y_BSO = Empty(x_BSE, layer.weight_OI.size(0));
    Multiply(layer.weight_OI, x_BSE, {.bias = DataOrNull(layer.bias_O)}, GemmEpilogue::kBiasGelu,
             *tile, y_BSO);
    return y_BSO;
  }

  Tensor Residual(const Tensor& h_BSE, const RowLinear& layer, const Tensor& x_BSI,
                  const Tensor& gate_E, PartialSum& tensor_axis, SumInto into) override {
    const Tensor residual_BSE = h_BSE.contiguous();
    Tensor y_BSE = into == SumInto::kSame ? residual_BSE : at::empty_like(residual_BSE);
    const std::optional<GemmTile> tile =
        layer.whole ? TileFor(layer.weight_OI, x_BSI, GemmEpilogue::kBiasResidual) : std::nullopt;
    if (tile) {
      Multiply(layer.weight_OI, x_BSI,
               {.bias = DataOrNull(layer.bias_O),
                .gate = DataOrNull<float>(gate_E),
                .residual = residual_BSE.const_data_ptr()},
               GemmEpilogue::kBiasResidual, *tile, y_BSE);
      return y_BSE;
    }
    AddGatedResidual(Partial(layer, x_BSI, tensor_axis), layer.bias_O, gate_E, residual_BSE, y_BSE);
    return y_BSE;
  }

 private:
  static std::optional<GemmTile> TileFor(const Tensor& weight_OI, const Tensor& x_BSI,
                                         GemmEpilogue epilogue) {
    if (weight_OI.numel() == 0 || x_BSI.numel() == 0 || !weight_OI.is_contiguous()) {
      return std::nullopt;
    }
    return ChooseGemmTile(RowsOf(x_BSI), weight_OI.size(1), weight_OI.size(0), epilogue);
  }

  static void Multiply(const Tensor& weight_OI, const Tensor& x_BSI, GemmSm90Args args,
                       GemmEpilogue epilogue, GemmTile tile, Tensor& y_BSO) {
    const Tensor x = x_BSI.contiguous();
    args.x = x.const_data_ptr();
    args.weight = weight_OI.const_data_ptr();
    args.y = y_BSO.mutable_data_ptr();
    args.rows = static_cast<int>(RowsOf(x));
    args.in = static_cast<int>(weight_OI.size(1));
    args.out = static_cast<int>(weight_OI.size(0));
    C10_CUDA_CHECK(LaunchGemmSm90(args, epilogue, tile, at::cuda::getCurrentCUDAStream()));
  }

  // layer(x) but for the bias.
  static Tensor Partial(const RowLinear& layer, const Tensor& x_BSI, PartialSum& tensor_axis) {
    const Tensor partial_BSE = at::linear(x_BSI, layer.weight_OI);
    return layer.whole ? partial_BSE : tensor_axis.Complete(partial_BSE);
  }

  float norm_eps_;
  std::unique_ptr<PixArtLayers> stock_ = MakeAtenLayers(at::kBFloat16, norm_eps_);
};

}  // namespace

bool Sm90LayersServe(const PixArtLayersOptions& options) {
  if (!options.device.is_cuda() || options.dtype != at::kBFloat16 || options.width % kGrain != 0 ||
      options.width > kNormModulateMaxWidth || options.features_grain % kGrain != 0) {
    return false;
  }
  return at::cuda::getDeviceProperties(options.device.index())->major == 9;
}

void AddGatedResidual(const Tensor& sum_BSE, const Tensor& bias_E, const Tensor& gate_E,
                      const Tensor& residual_BSE, Tensor& y_BSE) {
  if (y_BSE.numel() == 0) return;
  const Tensor sum = sum_BSE.contiguous();
  C10_CUDA_CHECK(
      LaunchGatedResidual({sum.const_data_ptr(), DataOrNull(bias_E), DataOrNull<float>(gate_E),
                           residual_BSE.const_data_ptr(), y_BSE.mutable_data_ptr(), RowsOf(y_BSE),
                           static_cast<int>(y_BSE.size(2))},
                          at::cuda::getCurrentCUDAStream()));
}

std::unique_ptr<PixArtLayers> MakeSm90Layers(double norm_eps) {
  return std::make_unique<Sm90Layers>(norm_eps);
}

}  // namespace patchflow
