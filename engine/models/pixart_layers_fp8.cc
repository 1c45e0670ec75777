#include "engine/models/pixart_layers_fp8.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include "absl/strings/str_cat.h"
#include "engine/kernels/fp8_rows.h"
#include "engine/kernels/gemm_fp8_sm90.h"
#include "engine/kernels/norm_modulate.h"
#include "engine/models/pixart_layers_sm90.h"

namespace patchflow {
namespace {

constexpr int64_t kGrain = 16;  // Features of a vector of 16 bytes.

template <class T = void>
const T* DataOrNull(const Tensor& t) {
  return t.defined() ? static_cast<const T*>(t.const_data_ptr()) : nullptr;
}

int64_t RowsOf(const Tensor& x_BSE) { return x_BSE.size(0) * x_BSE.size(1); }

// Activations in 8 bits.
struct Fp8Rows {
  Tensor elements_BSI;
  Tensor scale;  // float32, of each row.
};

Fp8Rows EmptyRows(const Tensor& x_BSI) {
  return {at::empty_like(x_BSI, x_BSI.options().dtype(at::kFloat8_e4m3fn)),
          at::empty({RowsOf(x_BSI)}, x_BSI.options().dtype(at::kFloat))};
}

Fp8Rows Quantised(const Tensor& x_BSI) {
  const Tensor x = x_BSI.contiguous();
  Fp8Rows rows = EmptyRows(x);
  if (x.numel() > 0) {
    C10_CUDA_CHECK(LaunchFp8Rows(
        {x.const_data_ptr(), rows.elements_BSI.mutable_data_ptr(),
         rows.scale.mutable_data_ptr<float>(), RowsOf(x), static_cast<int>(x.size(2))},
        at::cuda::getCurrentCUDAStream()));
  }
  return rows;
}

// A packed weight is one run of bytes: the elements [out, in], then the float32 scales [out].
const float* ScalesOf(const WeightPanels& panels) {
  const auto* bytes = panels.elements.const_data_ptr<uint8_t>();
  return reinterpret_cast<const float*>(bytes + panels.out * panels.in);
}

bool IsPacked(const WeightPanels& panels) { return panels.elements.defined(); }

template <class LinearOrRows>
void PackInto(LinearOrRows& layer, Original original) {
  if (layer.weight_OI.numel() == 0) return;
  const Tensor weight_OI = layer.weight_OI.contiguous();
  const int64_t out = weight_OI.size(0);
  const int64_t in = weight_OI.size(1);
  const auto scale_bytes = static_cast<int64_t>(sizeof(float));
  Tensor packed = at::empty({out * in + out * scale_bytes}, weight_OI.options().dtype(at::kByte));
  auto* bytes = packed.mutable_data_ptr<uint8_t>();
  C10_CUDA_CHECK(
      LaunchFp8Rows({weight_OI.const_data_ptr(), bytes, reinterpret_cast<float*>(bytes + out * in),
                     out, static_cast<int>(in)},
                    at::cuda::getCurrentCUDAStream()));
  layer.panels = {packed, out, in};
  if (original == Original::kDrop) layer.weight_OI = Tensor();
}

class Fp8Layers final : public PixArtLayers {
 public:
  explicit Fp8Layers(double norm_eps)
      : norm_eps_(static_cast<float>(norm_eps)), bfloat16_(MakeSm90Layers(norm_eps)) {}

  at::ScalarType modulation_dtype() const override { return at::kFloat; }

  void Pack(Linear& layer, Original original) const override { PackInto(layer, original); }
  void Pack(RowLinear& layer, Original original) const override { PackInto(layer, original); }

  Tensor Normed(const Tensor& h_BSE, const Tensor& scale_E, const Tensor& shift_E) override {
    return bfloat16_->Normed(h_BSE, scale_E, shift_E);
  }

  Tensor Product(const Linear& layer, const Tensor& x_BSE) override {
    return IsPacked(layer.panels) ? Multiplied(layer, Quantised(x_BSE), GemmEpilogue::kBias)
                                  : bfloat16_->Product(layer, x_BSE);
  }

  Tensor Gelu(const Linear& layer, const Tensor& x_BSE) override {
    return IsPacked(layer.panels) ? Multiplied(layer, Quantised(x_BSE), GemmEpilogue::kBiasGelu)
                                  : bfloat16_->Gelu(layer, x_BSE);
  }

  Tensor Residual(const Tensor& h_BSE, const RowLinear& layer, const Tensor& x_BSI,
                  const Tensor& gate_E, PartialSum& tensor_axis, SumInto into) override {
    if (!IsPacked(layer.panels)) {
      return bfloat16_->Residual(h_BSE, layer, x_BSI, gate_E, tensor_axis, into);
    }
    const Tensor residual_BSE = h_BSE.contiguous();
    Tensor y_BSE = into == SumInto::kSame ? residual_BSE : at::empty_like(residual_BSE);
    if (layer.whole) {
      Multiply(layer.panels, Quantised(x_BSI),
               {.bias = DataOrNull(layer.bias_O),
                .gate = DataOrNull<float>(gate_E),
                .residual = residual_BSE.const_data_ptr()},
               GemmEpilogue::kBiasResidual, y_BSE);
      return y_BSE;
    }
    Tensor partial_BSE = at::empty_like(residual_BSE);
    Multiply(layer.panels, Quantised(x_BSI), {}, GemmEpilogue::kBias, partial_BSE);
    AddGatedResidual(tensor_axis.Complete(partial_BSE), layer.bias_O, gate_E, residual_BSE, y_BSE);
    return y_BSE;
  }

  Tensor NormedProduct(const Linear& layer, const Tensor& h_BSE,
                       const Modulation& modulation) override {
    return IsPacked(layer.panels)
               ? Multiplied(layer, NormedRows(h_BSE, modulation), GemmEpilogue::kBias)
               : PixArtLayers::NormedProduct(layer, h_BSE, modulation);
  }

  Tensor Mlp(const Tensor& h_BSE, const MlpLayers& layers, const Modulation& modulation,
             PartialSum& tensor_axis) override {
    if (!IsPacked(layers.up.panels)) {
      return PixArtLayers::Mlp(h_BSE, layers, modulation, tensor_axis);
    }
    const Tensor hidden_BSF =
        Multiplied(layers.up, NormedRows(h_BSE, modulation), GemmEpilogue::kBiasGelu);
    return Residual(h_BSE, layers.down, hidden_BSF, modulation.gate_E, tensor_axis, SumInto::kSame);
  }

 private:
  // Quantised(Normed(h)), in one pass.
  Fp8Rows NormedRows(const Tensor& h_BSE, const Modulation& modulation) const {
    const Tensor h = h_BSE.contiguous();
    Fp8Rows rows = EmptyRows(h);
    if (h.numel() > 0) {
      C10_CUDA_CHECK(LaunchNormModulateFp8(
          {h.const_data_ptr(), modulation.scale_E.const_data_ptr<float>(),
           modulation.shift_E.const_data_ptr<float>(), rows.elements_BSI.mutable_data_ptr(),
           RowsOf(h), static_cast<int>(h.size(2)), norm_eps_},
          rows.scale.mutable_data_ptr<float>(), at::cuda::getCurrentCUDAStream()));
    }
    return rows;
  }

  static Tensor Multiplied(const Linear& layer, const Fp8Rows& x, GemmEpilogue epilogue) {
    Tensor y_BSO = at::empty({x.elements_BSI.size(0), x.elements_BSI.size(1), layer.panels.out},
                             x.elements_BSI.options().dtype(at::kBFloat16));
    Multiply(layer.panels, x, {.bias = DataOrNull(layer.bias_O)}, epilogue, y_BSO);
    return y_BSO;
  }

  static void Multiply(const WeightPanels& weight, const Fp8Rows& x, GemmFp8Args args,
                       GemmEpilogue epilogue, Tensor& y_BSO) {
    const int64_t rows = RowsOf(x.elements_BSI);
    if (rows == 0) return;
    args.x = x.elements_BSI.const_data_ptr();
    args.x_scale = x.scale.const_data_ptr<float>();
    args.weight = weight.elements.const_data_ptr();
    args.weight_scale = ScalesOf(weight);
    args.y = y_BSO.mutable_data_ptr();
    args.rows = static_cast<int>(rows);
    args.in = static_cast<int>(weight.in);
    args.out = static_cast<int>(weight.out);
    C10_CUDA_CHECK(LaunchGemmFp8Sm90(args, epilogue, at::cuda::getCurrentCUDAStream()));
  }

  float norm_eps_;
  std::unique_ptr<PixArtLayers> bfloat16_;
};

}  // namespace

absl::Status CheckFp8Layers(const PixArtLayersOptions& options) {
  if (options.width % kGrain != 0 || options.width > kNormModulateMaxWidth) {
    return absl::InvalidArgumentError(absl::StrCat("float8: the model's width, ", options.width,
                                                   ", is no multiple of ", kGrain, " up to ",
                                                   kNormModulateMaxWidth, ": take bfloat16"));
  }
  if (options.features_grain % kGrain != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("float8: a rank's share of the features comes in multiples of ",
                     options.features_grain, ", and products need multiples of ", kGrain,
                     ": take bfloat16, or fewer ranks on the tensor axis"));
  }
  const auto* const device = at::cuda::getDeviceProperties(options.device.index());
  if (device->major == 9) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("float8: ", device->name, " has compute capability ", device->major, ".",
                   device->minor, ", and these products are for 9.x (Hopper): take bfloat16"));
}

std::unique_ptr<PixArtLayers> MakeFp8Layers(double norm_eps) {
  return std::make_unique<Fp8Layers>(norm_eps);
}

}  // namespace patchflow
