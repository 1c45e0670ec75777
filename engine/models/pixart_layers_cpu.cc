#include "engine/models/pixart_layers_cpu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <memory>

namespace patchflow {
namespace {

// Rows whose intermediate results stay in the second-level cache.
constexpr int64_t kTilesOfBlock = 8;
// Scores of what fills a text up: their weight is exactly 0.
constexpr double kFillScore = -1e30;

const float* DataOrNull(const Tensor& t) {
  return t.defined() ? t.const_data_ptr<float>() : nullptr;
}

int64_t RowsOf(const Tensor& x_BSE) { return x_BSE.size(0) * x_BSE.size(1); }

// Of `size` elements for one thread.
std::unique_ptr<float[]> Scratch(int64_t size) {
  return std::unique_ptr<float[]>(new float[static_cast<size_t>(size)]);
}

template <typename LinearOrRows>
CpuGemmArgs ArgsOf(const LinearOrRows& layer) {
  CpuGemmArgs args;
  args.panels = layer.panels.elements.template const_data_ptr<float>();
  args.bias = DataOrNull(layer.bias_O);
  args.in = layer.panels.in;
  args.out = layer.panels.out;
  return args;
}

// `rows` rows of the same product, from `first` on.
CpuGemmArgs From(CpuGemmArgs args, int64_t first, int64_t rows) {
  args.x += first * args.in;
  args.y += first * args.out;
  if (args.residual != nullptr) args.residual += first * args.out;
  args.rows = rows;
  return args;
}

class CpuLayers final : public PixArtLayers {
 public:
  CpuLayers(const CpuKernels& kernels, double norm_eps)
      : kernels_(kernels), norm_eps_(static_cast<float>(norm_eps)) {}

  at::ScalarType modulation_dtype() const override { return at::kFloat; }

  void Pack(Linear& layer, Original original) const override { PackInto(layer, original); }
  void Pack(RowLinear& layer, Original original) const override { PackInto(layer, original); }

  Tensor Normed(const Tensor& h_BSE, const Tensor& scale_E, const Tensor& shift_E) override;
  Tensor Product(const Linear& layer, const Tensor& x_BSE) override {
    return Multiplied(layer, x_BSE, CpuEpilogue::kBias);
  }
  Tensor Gelu(const Linear& layer, const Tensor& x_BSE) override {
    return Multiplied(layer, x_BSE, CpuEpilogue::kBiasGelu);
  }
  Tensor Residual(const Tensor& h_BSE, const RowLinear& layer, const Tensor& x_BSI,
                  const Tensor& gate_E, PartialSum& tensor_axis, SumInto into) override;
  Tensor NormedProduct(const Linear& layer, const Tensor& h_BSE,
                       const Modulation& modulation) override;
  Tensor Mlp(const Tensor& h_BSE, const MlpLayers& layers, const Modulation& modulation,
             PartialSum& tensor_axis) override;
  FoldedText Fold(const Linear& q, const RowLinear& out, const Tensor& kv_BL2HD,
                  const Tensor& bias_B11L) const override;
  Tensor AttendFolded(const Tensor& h_BSE, const FoldedText& text,
                      PartialSum& tensor_axis) override;

 private:
  template <typename LinearOrRows>
  void PackInto(LinearOrRows& layer, Original original) const;
  Tensor Multiplied(const Linear& layer, const Tensor& x_BSE, CpuEpilogue epilogue) const;
  CpuNormArgs NormOf(const Tensor& h_BSE, const Modulation& modulation) const;
  void NormInto(CpuNormArgs norm, int64_t first, int64_t rows, float* y) const;
  Tensor WithResidual(const Tensor& h_BSE, const RowLinear& layer, const Tensor& partial_BSE,
                      const Tensor& gate_E, PartialSum& tensor_axis, SumInto into) const;

  // f(first, rows) of runs of rows that cover all of them, by all threads.
  template <typename F>
  void ForRows(int64_t rows, F f) const {
    at::parallel_for(0, rows, kernels_.tile_rows,
                     [&](int64_t begin, int64_t end) { f(begin, end - begin); });
  }
  // The same, in runs short enough for intermediate results; f(first, rows, scratch).
  template <typename F>
  void ForBlocks(int64_t rows, int64_t scratch_a_row, F f) const {
    const int64_t block = kTilesOfBlock * kernels_.tile_rows;
    ForRows(rows, [&](int64_t first, int64_t count) {
      const auto scratch = Scratch(std::min(block, count) * scratch_a_row);
      for (int64_t done = 0; done < count; done += block) {
        f(first + done, std::min(block, count - done), scratch.get());
      }
    });
  }

  const CpuKernels& kernels_;
  float norm_eps_;
};

template <typename LinearOrRows>
void CpuLayers::PackInto(LinearOrRows& layer, Original original) const {
  const Tensor weight_OI = layer.weight_OI.contiguous();
  const int64_t out = weight_OI.size(0);
  const int64_t in = weight_OI.size(1);
  layer.panels = {at::empty({PanelElements(kernels_, out, in)}, weight_OI.options()), out, in};
  kernels_.pack(weight_OI.template const_data_ptr<float>(), in, 1, out, in,
                layer.panels.elements.template mutable_data_ptr<float>());
  if (original == Original::kDrop) layer.weight_OI = Tensor();
}

Tensor CpuLayers::Multiplied(const Linear& layer, const Tensor& x_BSE, CpuEpilogue epilogue) const {
  const Tensor x = x_BSE.contiguous();
  Tensor y_BSO = at::empty({x.size(0), x.size(1), layer.panels.out}, x.options());
  CpuGemmArgs args = ArgsOf(layer);
  args.x = x.const_data_ptr<float>();
  args.y = y_BSO.mutable_data_ptr<float>();
  ForRows(RowsOf(x), [&](int64_t first, int64_t rows) {
    kernels_.multiply(From(args, first, rows), epilogue);
  });
  return y_BSO;
}

CpuNormArgs CpuLayers::NormOf(const Tensor& h_BSE, const Modulation& modulation) const {
  CpuNormArgs args;
  args.x = h_BSE.const_data_ptr<float>();
  args.scale = modulation.scale_E.const_data_ptr<float>();
  args.shift = modulation.shift_E.const_data_ptr<float>();
  args.width = h_BSE.size(2);
  args.eps = norm_eps_;
  return args;
}

void CpuLayers::NormInto(CpuNormArgs norm, int64_t first, int64_t rows, float* y) const {
  norm.x += first * norm.width;
  norm.y = y;
  norm.rows = rows;
  kernels_.norm_modulate(norm);
}

Tensor CpuLayers::Normed(const Tensor& h_BSE, const Tensor& scale_E, const Tensor& shift_E) {
  const Tensor h = h_BSE.contiguous();
  Tensor y_BSE = at::empty_like(h);
  const CpuNormArgs norm = NormOf(h, {scale_E, shift_E, {}});
  auto* y = y_BSE.mutable_data_ptr<float>();
  ForRows(RowsOf(h), [&](int64_t first, int64_t rows) {
    NormInto(norm, first, rows, y + first * norm.width);
  });
  return y_BSE;
}

Tensor CpuLayers::NormedProduct(const Linear& layer, const Tensor& h_BSE,
                                const Modulation& modulation) {
  const Tensor h = h_BSE.contiguous();
  Tensor y_BSO = at::empty({h.size(0), h.size(1), layer.panels.out}, h.options());
  const CpuNormArgs norm = NormOf(h, modulation);
  CpuGemmArgs args = ArgsOf(layer);
  auto* y = y_BSO.mutable_data_ptr<float>();
  ForBlocks(RowsOf(h), norm.width, [&](int64_t first, int64_t rows, float* normed) {
    NormInto(norm, first, rows, normed);
    CpuGemmArgs part = args;
    part.x = normed;
    part.y = y + first * args.out;
    part.rows = rows;
    kernels_.multiply(part, CpuEpilogue::kBias);
  });
  return y_BSO;
}

// The bias is added once, after the sum.
Tensor CpuLayers::WithResidual(const Tensor& h_BSE, const RowLinear& layer,
                               const Tensor& partial_BSE, const Tensor& gate_E,
                               PartialSum& tensor_axis, SumInto into) const {
  Tensor sum_BSE = tensor_axis.Complete(partial_BSE);
  if (layer.bias_O.defined()) sum_BSE.add_(layer.bias_O);
  if (into == SumInto::kNew) {
    return gate_E.defined() ? at::addcmul(h_BSE, sum_BSE, gate_E) : at::add(h_BSE, sum_BSE);
  }
  return gate_E.defined() ? h_BSE.addcmul_(sum_BSE, gate_E) : h_BSE.add_(sum_BSE);
}

Tensor CpuLayers::Residual(const Tensor& h_BSE, const RowLinear& layer, const Tensor& x_BSI,
                           const Tensor& gate_E, PartialSum& tensor_axis, SumInto into) {
  if (!layer.whole) {
    const Tensor partial_BSE = Multiplied({{}, {}, layer.panels}, x_BSI, CpuEpilogue::kBias);
    return WithResidual(h_BSE, layer, partial_BSE, gate_E, tensor_axis, into);
  }
  const Tensor x = x_BSI.contiguous();
  const Tensor h = h_BSE.contiguous();
  Tensor y_BSE = into == SumInto::kSame ? h : at::empty_like(h);
  CpuGemmArgs args = ArgsOf(layer);
  args.x = x.const_data_ptr<float>();
  args.gate = DataOrNull(gate_E);
  args.residual = h.const_data_ptr<float>();
  args.y = y_BSE.mutable_data_ptr<float>();
  ForRows(RowsOf(x), [&](int64_t first, int64_t rows) {
    kernels_.multiply(From(args, first, rows), CpuEpilogue::kBiasResidual);
  });
  return y_BSE;
}

Tensor CpuLayers::Mlp(const Tensor& h_BSE, const MlpLayers& layers, const Modulation& modulation,
                      PartialSum& tensor_axis) {
  Tensor h = h_BSE.contiguous();
  const bool whole = layers.down.whole;
  Tensor partial_BSE = whole ? h : at::empty_like(h);
  const CpuNormArgs norm = NormOf(h, modulation);
  const CpuGemmArgs up = ArgsOf(layers.up);
  CpuGemmArgs down = ArgsOf(layers.down);
  if (whole) {
    down.gate = modulation.gate_E.const_data_ptr<float>();
  } else {
    down.bias = nullptr;
  }
  auto* y = partial_BSE.mutable_data_ptr<float>();
  ForBlocks(RowsOf(h), norm.width + up.out, [&](int64_t first, int64_t rows, float* normed) {
    float* hidden = normed + rows * norm.width;
    NormInto(norm, first, rows, normed);
    CpuGemmArgs part = up;
    part.x = normed;
    part.y = hidden;
    part.rows = rows;
    kernels_.multiply(part, CpuEpilogue::kBiasGelu);
    part = down;
    part.x = hidden;
    part.y = y + first * down.out;
    part.residual = whole ? part.y : nullptr;
    part.rows = rows;
    kernels_.multiply(part, whole ? CpuEpilogue::kBiasResidual : CpuEpilogue::kBias);
  });
  if (whole) return h;
  return WithResidual(h, layers.down, partial_BSE, modulation.gate_E, tensor_axis, SumInto::kSame);
}

FoldedText CpuLayers::Fold(const Linear& q, const RowLinear& out, const Tensor& kv_BL2HD,
                           const Tensor& bias_B11L) const {
  const int64_t batch = kv_BL2HD.size(0);
  const int64_t tokens = kv_BL2HD.size(1);
  const int64_t heads = kv_BL2HD.size(3);
  const int64_t head_size = kv_BL2HD.size(4);
  const int64_t lanes = kernels_.panel / 2;
  const int64_t length = (tokens + lanes - 1) / lanes * lanes;
  if (length > head_size || heads == 0 || tokens == 0) return {};
  const int64_t width = out.weight_OI.size(0);
  const Tensor k_BHLD =
      kv_BL2HD.select(2, 0).permute({0, 2, 1, 3}) / std::sqrt(static_cast<double>(head_size));
  const Tensor v_BHDL = kv_BL2HD.select(2, 1).permute({0, 2, 3, 1});
  const Tensor scores_BHLE = at::constant_pad_nd(
      at::matmul(k_BHLD, q.weight_OI.view({heads, head_size, width})), {0, 0, 0, length - tokens});
  Tensor mask_BHL = bias_B11L.squeeze(2).expand({batch, heads, tokens});
  if (q.bias_O.defined()) {
    mask_BHL = mask_BHL + at::matmul(k_BHLD, q.bias_O.view({heads, head_size, 1})).squeeze(-1);
  }
  mask_BHL = at::constant_pad_nd(mask_BHL, {0, length - tokens}, kFillScore);
  const Tensor out_HED = out.weight_OI.view({width, heads, head_size}).transpose(0, 1);
  const Tensor values_BEHL =
      at::constant_pad_nd(at::matmul(out_HED, v_BHDL), {0, length - tokens}).transpose(1, 2);
  FoldedText folded;
  folded.length = length;
  for (int64_t b = 0; b < batch; ++b) {
    folded.scores.push_back(
        {scores_BHLE[b].reshape({heads * length, width}), mask_BHL[b].reshape({heads * length})});
    folded.values.push_back(
        {values_BEHL[b].reshape({width, heads * length}), out.bias_O, out.whole});
    Pack(folded.scores.back(), Original::kDrop);
    Pack(folded.values.back(), Original::kDrop);
  }
  return folded;
}

Tensor CpuLayers::AttendFolded(const Tensor& h_BSE, const FoldedText& text,
                               PartialSum& tensor_axis) {
  Tensor h = h_BSE.contiguous();
  const int64_t tokens = h.size(1);
  const int64_t width = h.size(2);
  const bool whole = text.values.front().whole;
  const Tensor partial_BSE = whole ? h : at::empty_like(h);
  const auto* x = h.const_data_ptr<float>();
  auto* y = partial_BSE.mutable_data_ptr<float>();
  const auto of_one = [&](size_t b, int64_t first, int64_t rows, float* scores) {
    CpuGemmArgs part = ArgsOf(text.scores[b]);
    part.x = x + first * width;
    part.y = scores;
    part.rows = rows;
    kernels_.multiply(part, CpuEpilogue::kBias);
    kernels_.softmax({.x = scores,
                      .rows = rows * part.out / text.length,
                      .length = text.length,
                      .stride = text.length});
    part = ArgsOf(text.values[b]);
    if (!whole) part.bias = nullptr;
    part.x = scores;
    part.y = y + first * width;
    part.residual = whole ? part.y : nullptr;
    part.rows = rows;
    kernels_.multiply(part, whole ? CpuEpilogue::kBiasResidual : CpuEpilogue::kBias);
  };
  ForBlocks(RowsOf(h), text.scores.front().panels.out,
            [&](int64_t first, int64_t rows, float* scores) {
              for (int64_t end = first + rows; first < end;) {
                const int64_t b = first / tokens;
                const int64_t count = std::min(end, (b + 1) * tokens) - first;
                of_one(static_cast<size_t>(b), first, count, scores);
                first += count;
              }
            });
  if (whole) return h;
  return WithResidual(h, text.values.front(), partial_BSE, {}, tensor_axis, SumInto::kSame);
}

}  // namespace

std::unique_ptr<PixArtLayers> MakeCpuLayers(const CpuKernels& kernels, double norm_eps) {
  return std::make_unique<CpuLayers>(kernels, norm_eps);
}

}  // namespace patchflow
