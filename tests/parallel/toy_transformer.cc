#include "tests/parallel/toy_transformer.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>
#include <vector>

#include "engine/attention.h"

namespace patchflow {
namespace {

constexpr int64_t kExpansion = 3;
constexpr int64_t kModulations = 4;  // Scale, gate of the attention; scale, gate of the MLP.
constexpr double kMaskedBias = -10000;
// Of what a block adds to its input: rounding grows little over many blocks and steps.
constexpr double kBranchScale = 0.5;

// Draws whole matrices, so that every shard and stage sees the same numbers, and keeps a part.
class Drawer {
 public:
  explicit Drawer(const ToyOptions& options)
      : options_(options), generator_(at::detail::createCPUGenerator(options.seed)) {}

  Tensor Draw(at::IntArrayRef sizes, double scale) {
    return at::randn(sizes, generator_, at::TensorOptions(at::kFloat)).mul_(scale);
  }
  Tensor Keep(const Tensor& whole) {
    Tensor kept = whole.contiguous().to(options_.device, options_.dtype);
    bytes_ += static_cast<int64_t>(kept.nbytes());
    return kept;
  }
  int64_t bytes() const { return bytes_; }

 private:
  const ToyOptions& options_;
  at::Generator generator_;
  int64_t bytes_ = 0;
};

// y = x w + b, weights [inputs, outputs].
struct ToyLinear {
  Tensor weight_IO;
  Tensor bias_O;  // May be undefined.
  Tensor operator()(const Tensor& x) const;
};

Tensor ToyLinear::operator()(const Tensor& x) const {
  if (x.is_cuda()) {
    const Tensor y = at::matmul(x, weight_IO);
    return bias_O.defined() ? y + bias_O : y;
  }
  const Tensor in = x.contiguous();
  const int64_t inputs = weight_IO.size(0);
  const int64_t outputs = weight_IO.size(1);
  std::vector<int64_t> sizes = in.sizes().vec();
  sizes.back() = outputs;
  Tensor y = at::zeros(sizes, in.options());
  const auto* __restrict x_data = in.const_data_ptr<float>();
  const auto* __restrict w_data = weight_IO.const_data_ptr<float>();
  auto* __restrict y_data = y.mutable_data_ptr<float>();
  const int64_t rows = outputs == 0 ? 0 : y.numel() / outputs;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < inputs; ++i) {
      for (int64_t o = 0; o < outputs; ++o) {
        y_data[row * outputs + o] += x_data[row * inputs + i] * w_data[i * outputs + o];
      }
    }
  }
  return bias_O.defined() ? y.add_(bias_O) : y;
}

struct ToyBlock {
  ToyLinear qkv;  // Outputs [3, heads held here, D].
  ToyLinear out;
  ToyLinear cross_q;
  ToyLinear cross_kv;  // Outputs [2, heads held here, D].
  ToyLinear cross_out;
  ToyLinear up;
  ToyLinear down;
  Tensor out_bias_E;  // Added after the sums.
  Tensor cross_bias_E;
  Tensor down_bias_E;
  Tensor modulation_ME;
};

struct ToyConditioning final : Conditioning {
  Tensor positions_SE;
  Tensor steps_T;  // Of all steps, in [0, 1].
  Tensor bias_B11L;
  std::vector<Tensor> kv_BL2HD;

  std::vector<Tensor> tensors() const override {
    std::vector<Tensor> all = {positions_SE, steps_T, bias_B11L};
    all.insert(all.end(), kv_BL2HD.begin(), kv_BL2HD.end());
    return all;
  }
  std::unique_ptr<Conditioning> Clone() const override {
    auto copy = std::make_unique<ToyConditioning>(*this);
    copy->positions_SE = positions_SE.clone();
    copy->steps_T = steps_T.clone();
    copy->bias_B11L = bias_B11L.clone();
    for (Tensor& kv : copy->kv_BL2HD) {
      kv = kv.clone();
    }
    return copy;
  }
};

class ToyTransformer final : public Transformer {
 public:
  explicit ToyTransformer(const ToyOptions& options);

  const TransformerConfig& config() const override { return config_; }
  at::ScalarType dtype() const override { return options_.dtype; }
  BlockRange blocks() const override { return held_; }
  int64_t parameter_bytes() const override { return parameter_bytes_; }
  std::unique_ptr<Conditioning> Prepare(const Prompt& prompt, TokenGrid grid,
                                        const std::vector<double>& timesteps,
                                        const Tensor& token_order) const override;
  Tensor Embed(const Tensor& x_BSC, const StepContext& context) const override;
  Tensor RunBlocks(BlockRange range, Tensor h_BSE, const StepContext& context) const override;
  Tensor Project(const Tensor& h_BSE, const StepContext& context) const override;

 private:
  ToyBlock DrawBlock(Drawer& drawer) const;
  ToyBlock Keep(Drawer& drawer, ToyBlock whole) const;
  Tensor Heads(const Tensor& whole_IO, int64_t parts) const;

  ToyOptions options_;
  TransformerConfig config_;
  BlockRange held_;
  UnitRange heads_;   // Held here.
  UnitRange hidden_;  // Held here.
  ToyLinear embed_;
  ToyLinear project_;
  Tensor columns_E;
  Tensor rows_E;
  std::vector<ToyBlock> blocks_;
  int64_t parameter_bytes_ = 0;
};

ToyTransformer::ToyTransformer(const ToyOptions& options)
    : options_(options),
      config_(ToyConfig(options)),
      held_{options.blocks.begin, options.blocks.end < 0 ? options.num_blocks : options.blocks.end},
      heads_(ShareOf(options.num_heads, options.shard)),
      hidden_(ShareOf(kExpansion * config_.width(), options.shard)) {
  Drawer drawer(options_);
  const int64_t width = config_.width();
  // Orthonormal, so that the prediction stays near the input and the loop near its scale.
  const Tensor embed_CE =
      std::get<0>(at::linalg_qr(drawer.Draw({width, config_.token_width()}, 1))).t();
  embed_ = {drawer.Keep(embed_CE), drawer.Keep(drawer.Draw({width}, 0.1))};
  project_ = {drawer.Keep(embed_CE.t() + drawer.Draw({width, config_.token_width()}, 0.05)), {}};
  columns_E = drawer.Keep(drawer.Draw({width}, 1));
  rows_E = drawer.Keep(drawer.Draw({width}, 1));
  for (int i = 0; i < options.num_blocks; ++i) {
    ToyBlock whole = DrawBlock(drawer);
    if (i >= held_.begin && i < held_.end) {
      blocks_.push_back(Keep(drawer, std::move(whole)));
    }
  }
  parameter_bytes_ = drawer.bytes();
}

ToyBlock ToyTransformer::DrawBlock(Drawer& drawer) const {
  const int64_t width = config_.width();
  const int64_t hidden = kExpansion * width;
  const double unit = 1 / std::sqrt(static_cast<double>(width));
  ToyBlock block;
  block.qkv = {drawer.Draw({width, 3 * width}, 1.5 * unit), drawer.Draw({3 * width}, 0.1)};
  block.out.weight_IO = drawer.Draw({width, width}, kBranchScale * unit);
  block.cross_q = {drawer.Draw({width, width}, unit), {}};
  block.cross_kv = {drawer.Draw({kToyTextWidth, 2 * width}, 0.5), {}};
  block.cross_out.weight_IO = drawer.Draw({width, width}, kBranchScale * unit);
  block.up = {drawer.Draw({width, hidden}, unit), drawer.Draw({hidden}, 0.1)};
  block.down.weight_IO = drawer.Draw({hidden, width}, kBranchScale * unit);
  block.out_bias_E = drawer.Draw({width}, 0.1);
  block.cross_bias_E = drawer.Draw({width}, 0.1);
  block.down_bias_E = drawer.Draw({width}, 0.1);
  block.modulation_ME = drawer.Draw({kModulations, width}, 0.5);
  return block;
}

// Columns of a matrix whose outputs are [parts, all heads, D], for the heads held here.
Tensor ToyTransformer::Heads(const Tensor& whole_IO, int64_t parts) const {
  return whole_IO.unflatten(-1, {parts, config_.num_heads, config_.head_size})
      .narrow(-2, heads_.begin, heads_.size())
      .flatten(-3);
}

ToyBlock ToyTransformer::Keep(Drawer& drawer, ToyBlock whole) const {
  const auto inputs = [](const Tensor& weight_IO, UnitRange range, int64_t unit) {
    return weight_IO.narrow(0, range.begin * unit, range.size() * unit);
  };
  const int64_t head = config_.head_size;
  ToyBlock block;
  block.qkv = {drawer.Keep(Heads(whole.qkv.weight_IO, 3)),
               drawer.Keep(Heads(whole.qkv.bias_O.unsqueeze(0), 3).squeeze(0))};
  block.out.weight_IO = drawer.Keep(inputs(whole.out.weight_IO, heads_, head));
  block.cross_q = {drawer.Keep(Heads(whole.cross_q.weight_IO, 1)), {}};
  block.cross_kv = {drawer.Keep(Heads(whole.cross_kv.weight_IO, 2)), {}};
  block.cross_out.weight_IO = drawer.Keep(inputs(whole.cross_out.weight_IO, heads_, head));
  block.up = {drawer.Keep(whole.up.weight_IO.narrow(1, hidden_.begin, hidden_.size())),
              drawer.Keep(whole.up.bias_O.narrow(0, hidden_.begin, hidden_.size()))};
  block.down.weight_IO = drawer.Keep(inputs(whole.down.weight_IO, hidden_, 1));
  block.out_bias_E = drawer.Keep(whole.out_bias_E);
  block.cross_bias_E = drawer.Keep(whole.cross_bias_E);
  block.down_bias_E = drawer.Keep(whole.down_bias_E);
  block.modulation_ME = drawer.Keep(whole.modulation_ME);
  return block;
}

std::unique_ptr<Conditioning> ToyTransformer::Prepare(const Prompt& prompt, TokenGrid grid,
                                                      const std::vector<double>& timesteps,
                                                      const Tensor& token_order) const {
  auto out = std::make_unique<ToyConditioning>();
  const auto like = columns_E.options();
  const Tensor rows = at::arange(grid.h, like).div_(grid.h).view({-1, 1, 1});
  const Tensor columns = at::arange(grid.w, like).div_(grid.w).view({1, -1, 1});
  out->positions_SE = (rows * rows_E + columns * columns_E).flatten(0, 1);
  if (token_order.defined()) {
    out->positions_SE = out->positions_SE.index_select(0, token_order.to(options_.device));
  }
  out->steps_T = at::tensor(timesteps, at::kDouble).div_(1000).to(at::kFloat).to(like);
  out->bias_B11L = prompt.mask_BL.to(like).sub_(1).mul_(-kMaskedBias).unsqueeze(1).unsqueeze(1);
  const Tensor text_BLD = prompt.text_BLD.to(like);
  for (const ToyBlock& block : blocks_) {
    out->kv_BL2HD.push_back(
        block.cross_kv(text_BLD).unflatten(2, {2, heads_.size(), config_.head_size}));
  }
  return out;
}

Tensor ToyTransformer::Embed(const Tensor& x_BSC, const StepContext& context) const {
  const auto& conditioning = static_cast<const ToyConditioning&>(context.conditioning);
  return embed_(x_BSC.to(options_.dtype)) +
         conditioning.positions_SE.narrow(0, context.span.begin, context.span.size());
}

Tensor ToyTransformer::RunBlocks(BlockRange range, Tensor h_BSE, const StepContext& context) const {
  const auto& conditioning = static_cast<const ToyConditioning&>(context.conditioning);
  const Tensor now_1 = conditioning.steps_T.index_select(0, context.step);
  const auto norm = [this](const Tensor& h) {
    return at::layer_norm(h, {config_.width()}, {}, {}, 1e-6);
  };
  for (int i = range.begin; i < range.end; ++i) {
    const ToyBlock& block = blocks_[i - held_.begin];
    const auto m = ((block.modulation_ME * now_1) + 1).unbind(0);
    const auto qkv =
        block.qkv(norm(h_BSE) * m[0]).unflatten(2, {3, heads_.size(), config_.head_size}).unbind(2);
    const Tensor o = context.attention.Attend({i, context.span, qkv[0], qkv[1], qkv[2]});
    h_BSE =
        h_BSE + (context.tensor_axis.Complete(block.out(o.flatten(2))) + block.out_bias_E) * m[1];
    const Tensor& kv_BL2HD = conditioning.kv_BL2HD[i - held_.begin];
    const Tensor q = block.cross_q(h_BSE).unflatten(2, {heads_.size(), config_.head_size});
    const Tensor cross =
        Sdpa(q, kv_BL2HD.select(2, 0), kv_BL2HD.select(2, 1), conditioning.bias_B11L);
    h_BSE = h_BSE + context.tensor_axis.Complete(block.cross_out(cross.flatten(2))) +
            block.cross_bias_E;
    const Tensor hidden = at::relu(block.up(norm(h_BSE) * m[2]));
    h_BSE = h_BSE + (context.tensor_axis.Complete(block.down(hidden)) + block.down_bias_E) * m[3];
  }
  return h_BSE;
}

Tensor ToyTransformer::Project(const Tensor& h_BSE, const StepContext& /*context*/) const {
  return project_(h_BSE);
}

}  // namespace

TransformerConfig ToyConfig(const ToyOptions& options) {
  TransformerConfig config;
  config.num_blocks = options.num_blocks;
  config.num_heads = options.num_heads;
  config.head_size = options.head_size;
  config.patch_size = 1;
  config.latent_channels = 4;
  config.caption_width = kToyTextWidth;
  return config;
}

std::unique_ptr<Transformer> MakeToyTransformer(const ToyOptions& options) {
  return std::make_unique<ToyTransformer>(options);
}

}  // namespace patchflow
