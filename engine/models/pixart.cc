#include "engine/models/pixart.h"

#include <ATen/ATen.h>

#include <numeric>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/attention.h"
#include "engine/by_image.h"
#include "engine/models/pixart_conditioning.h"
#include "engine/models/pixart_config.h"
#include "engine/models/pixart_layers.h"

namespace patchflow {
namespace {

constexpr int64_t kModulations =
    6;  // Shift, scale, gate of the attention; shift, scale, gate of the MLP.
constexpr int64_t kMlpExpansion = 4;
constexpr int64_t kMlpUnit = 16;  // Hidden features of a shard stay aligned for the tensor cores.
constexpr double kMaskedBias = -10000;
constexpr double kFinalNormEps = 1e-6;

struct Block {
  Linear qkv;  // Outputs: q of the heads held here, then k, then v.
  RowLinear out;
  Linear cross_q;
  Linear cross_kv;
  RowLinear cross_out;
  MlpLayers mlp;
};

struct BlockModulation {
  Modulation attention;
  Modulation mlp;
};

// One product instead of several over the same input.
Linear Stacked(const std::vector<Linear>& layers) {
  std::vector<Tensor> weights;
  std::vector<Tensor> biases;
  for (const Linear& layer : layers) {
    if (!layer.weight_OI.defined()) {
      return {};  // The reader will report it.
    }
    weights.push_back(layer.weight_OI);
    if (layer.bias_O.defined()) {
      biases.push_back(layer.bias_O);
    }
  }
  return {at::cat(weights), biases.empty() ? Tensor() : at::cat(biases)};
}

Block ReadBlock(const PixArtConfig& config, WeightReader reader) {
  const int64_t width = config.common.width();
  const int64_t head = config.common.head_size;
  const int64_t hidden = kMlpExpansion * width;
  const int64_t mlp_unit = std::gcd(hidden, kMlpUnit);
  const Bias bias = config.attention_bias ? Bias::kYes : Bias::kNo;
  const auto heads = [&](const char* name) {
    return reader.SplitOutputs(name, width, width, head, bias);
  };
  Block block;
  block.qkv = Stacked({heads("attn1.to_q"), heads("attn1.to_k"), heads("attn1.to_v")});
  block.out = reader.SplitInputs("attn1.to_out.0", width, width, head);
  block.cross_q = heads("attn2.to_q");
  block.cross_kv = Stacked({heads("attn2.to_k"), heads("attn2.to_v")});
  block.cross_out = reader.SplitInputs("attn2.to_out.0", width, width, head);
  block.mlp.up = reader.SplitOutputs("ff.net.0.proj", hidden, width, mlp_unit);
  block.mlp.down = reader.SplitInputs("ff.net.2", width, hidden, mlp_unit);
  return block;
}

// Tables hold shifts, scales and gates; 1 is added to the scales here once.
Tensor ReadTable(WeightReader& reader, int64_t rows, int64_t width,
                 std::initializer_list<int64_t> scale_rows) {
  Tensor table = reader.As(at::kFloat).Raw("scale_shift_table", {rows, width});
  if (!table.defined()) {
    return table;
  }
  table = table.clone();
  for (int64_t row : scale_rows) {
    table.select(0, row).add_(1);
  }
  return table;
}

Prompt OfImage(const Prompt& prompt, int64_t n) {
  const auto rows = [&](const Tensor& all) {
    return all.unflatten(0, {-1, prompt.images}).select(1, n);
  };
  return {rows(prompt.text_BLD), rows(prompt.mask_BL)};
}

// Padding that no row looks at is left out where that costs no wait: on CPUs. Its weight is exactly
// 0.
Prompt WithoutSharedPadding(const Prompt& prompt) {
  const Tensor real_BL = prompt.mask_BL.to(at::kBool);
  if (!real_BL.is_cpu() || !*real_BL.any(1).all().const_data_ptr<bool>()) {
    return prompt;
  }
  const Tensor used = real_BL.any(0).nonzero().flatten();
  return {prompt.text_BLD.index_select(1, used), prompt.mask_BL.index_select(1, used)};
}

// float8 is of the blocks' products alone, and of the tokens': everything else is bfloat16.
at::ScalarType DtypeBeside(at::ScalarType products) {
  return products == at::kFloat8_e4m3fn ? at::kBFloat16 : products;
}

// What a shard's layers are multiplied by.
PixArtLayersOptions LayersOf(const PixArtConfig& config, const ReadOptions& options) {
  const TransformerConfig& common = config.common;
  const int64_t attention = ShareOf(common.num_heads, options.shard).size() * common.head_size;
  return {
      .device = options.device,
      .dtype = options.dtype,
      .norm_eps = config.norm_eps,
      .width = common.width(),
      .features_grain = std::gcd(attention, std::gcd(kMlpExpansion * common.width(), kMlpUnit))};
}

PixArtLayersOptions Beside(PixArtLayersOptions layers) {
  layers.dtype = DtypeBeside(layers.dtype);
  return layers;
}

const PixArtConditioning& ConditioningOf(const StepContext& context) {
  return static_cast<const PixArtConditioning&>(context.conditioning);
}

class PixArt final : public Transformer {
 public:
  PixArt(const PixArtConfig& config, BlockRange blocks, WeightReader reader,
         const PixArtLayersOptions& layers);

  const TransformerConfig& config() const override { return config_.common; }
  at::ScalarType dtype() const override { return dtype_; }
  BlockRange blocks() const override { return held_; }
  int64_t parameter_bytes() const override { return parameter_bytes_; }
  std::unique_ptr<Conditioning> Prepare(const Prompt& prompt, TokenGrid grid,
                                        const std::vector<double>& timesteps,
                                        const Tensor& token_order) const override;
  Tensor Embed(const Tensor& x_BSC, const StepContext& context) const override;
  Tensor RunBlocks(BlockRange range, Tensor h_BSE, const StepContext& context) const override;
  Tensor Project(const Tensor& h_BSE, const StepContext& context) const override;

 private:
  void ReadPatchLayers(WeightReader& reader);
  void PackLayers();
  std::vector<BlockModulation> ModulationsOf(BlockRange range, const StepContext& context) const;
  // Without the layer behind it.
  Tensor SelfAttentionOf(int index, const Tensor& qkv_BSO, const StepContext& context) const;
  // h, the same in all branches of an image before block 0, and what self-attention adds to it.
  Tensor AddSelfAttention(int index, const Tensor& h_BSE, const Modulation& modulation,
                          const StepContext& context) const;
  // With the layer behind it, and added to h, which may be in its memory.
  Tensor AddTextAttention(int index, const Tensor& h_BSE, const StepContext& context) const;
  Tensor AddAttentionTo(const PixArtText& text, int index, const Tensor& h_BSE,
                        PartialSum& tensor_axis) const;
  PixArtText TextOf(const Prompt& prompt) const;

  PixArtConfig config_;
  BlockRange held_;
  int64_t heads_;  // Held here.
  at::Device device_;
  at::ScalarType dtype_;
  std::unique_ptr<PixArtLayers> layers_;
  std::unique_ptr<PixArtLayers> caption_layers_;
  Linear embed_;
  Linear caption_up_;
  Linear caption_down_;
  PixArtTimestepLayers timestep_layers_;
  Tensor tables_N6E_;  // float32, of the blocks held here.
  std::vector<Block> blocks_;
  Tensor final_table_2E_;  // float32: shift, scale.
  Linear project_;
  int64_t parameter_bytes_;
};

PixArt::PixArt(const PixArtConfig& config, BlockRange blocks, WeightReader reader,
               const PixArtLayersOptions& layers)
    : config_(config),
      held_(blocks),
      heads_(ShareOf(config.common.num_heads, reader.options().shard).size()),
      device_(reader.options().device),
      dtype_(reader.options().dtype),
      layers_(MakeLayers(layers)),
      caption_layers_(MakeLayers(Beside(layers))),
      timestep_layers_(config, reader.In("adaln_single")) {
  const int64_t width = config.common.width();
  WeightReader caption = reader.In("caption_projection");
  caption_up_ = caption.Replicated("linear_1", width, config.common.caption_width);
  caption_down_ = caption.Replicated("linear_2", width, width);
  std::vector<Tensor> tables;
  for (int i = 0; i < config.common.num_blocks; ++i) {
    WeightReader block = reader.In(absl::StrCat("transformer_blocks.", i));
    if (i < held_.begin || i >= held_.end) {
      block.Skip("");
      continue;
    }
    blocks_.push_back(ReadBlock(config, block));
    tables.push_back(ReadTable(block, kModulations, width, {1, 4}));
  }
  ReadPatchLayers(reader);
  final_table_2E_ = ReadTable(reader, 2, width, {1});
  // Older files hold what is computed here, and the learned caption of training.
  reader.Skip("pos_embed.pos_embed");
  reader.Skip("caption_projection.y_embedding");
  parameter_bytes_ = reader.bytes_read();
  if (!reader.Finish().ok()) {
    return;
  }
  if (!tables.empty()) {
    tables_N6E_ = at::stack(tables);
  }
  PackLayers();
}

// What is folded into a text is read as it stands in the file, too.
void PixArt::PackLayers() {
  caption_layers_->Pack(caption_up_, Original::kDrop);
  for (Block& block : blocks_) {
    layers_->Pack(block.qkv, Original::kDrop);
    layers_->Pack(block.out, Original::kDrop);
    layers_->Pack(block.cross_q, Original::kKeep);
    layers_->Pack(block.cross_out, Original::kKeep);
    layers_->Pack(block.mlp.up, Original::kDrop);
    layers_->Pack(block.mlp.down, Original::kDrop);
  }
}

// Convolutions over whole patches are products over tokens (row in patch, column in patch,
// channel).
void PixArt::ReadPatchLayers(WeightReader& reader) {
  const TransformerConfig& common = config_.common;
  const int64_t width = common.width();
  const int64_t side = common.patch_size;
  const int64_t kept = common.latent_channels;
  const int64_t out = config_.output_channels;
  WeightReader embed = reader.In("pos_embed.proj");
  const Tensor weight_Ecpp = embed.Raw("weight", {width, kept, side, side});
  embed_.bias_O = embed.Raw("bias", {width});
  const Linear project = reader.Replicated("proj_out", side * side * out, width);
  if (!reader.Finish().ok() &&
      !(weight_Ecpp.defined() && project.weight_OI.defined() && project.bias_O.defined())) {
    return;
  }
  embed_.weight_OI = weight_Ecpp.permute({0, 2, 3, 1}).reshape({width, common.token_width()});
  project_.weight_OI = project.weight_OI.view({side * side, out, width})
                           .narrow(1, 0, kept)
                           .reshape({common.token_width(), width});
  project_.bias_O = project.bias_O.view({side * side, out}).narrow(1, 0, kept).reshape({-1});
}

std::unique_ptr<Conditioning> PixArt::Prepare(const Prompt& prompt, TokenGrid grid,
                                              const std::vector<double>& timesteps,
                                              const Tensor& token_order) const {
  auto out = std::make_unique<PixArtConditioning>();
  const int64_t width = config_.common.width();
  const Tensor positions =
      PixArtPositions(grid, width, config_.base_grid, config_.interpolation_scale, device_);
  out->positions_SE =
      token_order.defined() ? positions.index_select(0, token_order.to(device_)) : positions;
  timestep_layers_.Apply(timesteps, grid, *out);
  out->images = prompt.images;
  if (prompt.images == 1 || !device_.is_cpu()) {
    out->texts.push_back(TextOf(prompt));
    return out;
  }
  for (int64_t n = 0; n < prompt.images; ++n) {
    out->texts.push_back(TextOf(OfImage(prompt, n)));
  }
  return out;
}

PixArtText PixArt::TextOf(const Prompt& prompt) const {
  PixArtText out;
  const Prompt used = WithoutSharedPadding(prompt);
  const Tensor keep_BL = used.mask_BL.to(device_).to(dtype_);
  out.bias_B11L = AlignBias(at::rsub(keep_BL, 1).mul_(kMaskedBias).unsqueeze(1).unsqueeze(1));
  const Tensor text_BLE =
      caption_down_(caption_layers_->Gelu(caption_up_, used.text_BLD.to(device_).to(dtype_)));
  for (const Block& block : blocks_) {
    out.kv_BL2HD.push_back(block.cross_kv(text_BLE).view(
        {text_BLE.size(0), text_BLE.size(1), 2, heads_, config_.common.head_size}));
    FoldedText folded =
        layers_->Fold(block.cross_q, block.cross_out, out.kv_BL2HD.back(), out.bias_B11L);
    if (folded.defined()) out.folded.push_back(std::move(folded));
  }
  return out;
}

Tensor PixArt::Embed(const Tensor& x_BSC, const StepContext& context) const {
  const PixArtConditioning& conditioning = ConditioningOf(context);
  const Tensor positions_SE =
      conditioning.positions_SE.narrow(0, context.span.begin, context.span.size());
  const int64_t branches = x_BSC.size(0) / conditioning.images;
  const Tensor h_NSE = ByImage(conditioning.images, x_BSC.narrow(0, 0, conditioning.images),
                               [&](const Tensor& own_NSC, int64_t /*n*/) {
                                 // In place: added in float32, rounded once.
                                 return embed_(own_NSC.to(dtype_)).add_(positions_SE);
                               });
  return h_NSE.unsqueeze(0).expand({branches, -1, -1, -1}).flatten(0, 1);
}

std::vector<BlockModulation> PixArt::ModulationsOf(BlockRange range,
                                                   const StepContext& context) const {
  const PixArtConditioning& conditioning = ConditioningOf(context);
  const Tensor of_step =
      at::index_select(conditioning.modulation_TM, 0, context.step).view({1, kModulations, -1});
  const Tensor sum = tables_N6E_.narrow(0, range.begin - held_.begin, range.size()) + of_step;
  const std::vector<Tensor> rows = sum.to(layers_->modulation_dtype()).flatten(0, 1).unbind(0);
  std::vector<BlockModulation> modulations;
  for (size_t i = 0; i < rows.size(); i += kModulations) {
    modulations.push_back(
        {.attention = {.scale_E = rows[i + 1], .shift_E = rows[i], .gate_E = rows[i + 2]},
         .mlp = {.scale_E = rows[i + 4], .shift_E = rows[i + 3], .gate_E = rows[i + 5]}});
  }
  return modulations;
}

Tensor PixArt::SelfAttentionOf(int index, const Tensor& qkv_BSO, const StepContext& context) const {
  const std::vector<Tensor> qkv =
      qkv_BSO.view({qkv_BSO.size(0), qkv_BSO.size(1), 3, heads_, config_.common.head_size})
          .unbind(2);
  return context.attention
      .Attend({index, context.span, qkv[0], qkv[1], qkv[2], ConditioningOf(context).images})
      .flatten(2);
}

Tensor PixArt::AddSelfAttention(int index, const Tensor& h_BSE, const Modulation& modulation,
                                const StepContext& context) const {
  const Block& block = blocks_[index - held_.begin];
  const int64_t images = ConditioningOf(context).images;
  // Branches first differ by the text, so that those of an image share what comes before it.
  const bool alike = index == 0 && h_BSE.size(0) > images;
  const Tensor h_bSE = alike ? h_BSE.narrow(0, 0, images) : h_BSE;
  const Tensor qkv_bSO = layers_->NormedProduct(block.qkv, h_bSE, modulation);
  const Tensor x_bSI = SelfAttentionOf(index, qkv_bSO, context);
  const Tensor sum_bSE = layers_->Residual(h_bSE, block.out, x_bSI, modulation.gate_E,
                                           context.tensor_axis, SumInto::kNew);
  return alike ? sum_bSE.repeat({h_BSE.size(0) / images, 1, 1}) : sum_bSE;
}

Tensor PixArt::AddTextAttention(int index, const Tensor& h_BSE, const StepContext& context) const {
  const PixArtConditioning& conditioning = ConditioningOf(context);
  return ByImage(conditioning.images, h_BSE, [&](const Tensor& own_BSE, int64_t n) {
    return AddAttentionTo(conditioning.texts[n], index, own_BSE, context.tensor_axis);
  });
}

Tensor PixArt::AddAttentionTo(const PixArtText& text, int index, const Tensor& h_BSE,
                              PartialSum& tensor_axis) const {
  const size_t held = index - held_.begin;
  if (!text.folded.empty()) {
    return layers_->AttendFolded(h_BSE, text.folded[held], tensor_axis);
  }
  const Block& block = blocks_[held];
  const Tensor& kv_BL2HD = text.kv_BL2HD[held];
  const Tensor q_BSHD = layers_->Product(block.cross_q, h_BSE)
                            .view({h_BSE.size(0), h_BSE.size(1), heads_, config_.common.head_size});
  const Tensor x_BSI =
      Sdpa(q_BSHD, kv_BL2HD.select(2, 0), kv_BL2HD.select(2, 1), text.bias_B11L).flatten(2);
  return layers_->Residual(h_BSE, block.cross_out, x_BSI, {}, tensor_axis, SumInto::kSame);
}

Tensor PixArt::RunBlocks(BlockRange range, Tensor h_BSE, const StepContext& context) const {
  TORCH_CHECK(held_.begin <= range.begin && range.begin <= range.end && range.end <= held_.end,
              "blocks [", range.begin, ", ", range.end, ") are not within those held, [",
              held_.begin, ", ", held_.end, ")");
  if (range.size() == 0) {
    return h_BSE;
  }
  const std::vector<BlockModulation> modulations = ModulationsOf(range, context);
  for (int i = range.begin; i < range.end; ++i) {
    const auto& [attention, mlp] = modulations[i - range.begin];
    h_BSE = AddSelfAttention(i, h_BSE, attention, context);
    h_BSE = AddTextAttention(i, h_BSE, context);
    h_BSE = layers_->Mlp(h_BSE, blocks_[i - held_.begin].mlp, mlp, context.tensor_axis);
  }
  return h_BSE;
}

Tensor PixArt::Project(const Tensor& h_BSE, const StepContext& context) const {
  const PixArtConditioning& conditioning = ConditioningOf(context);
  const std::vector<Tensor> shift_scale =
      (final_table_2E_ + at::index_select(conditioning.embedded_TE, 0, context.step))
          .to(dtype_)
          .unbind(0);
  return ByImage(conditioning.images, h_BSE, [&](const Tensor& own_BSE, int64_t /*n*/) {
    return project_(at::layer_norm(own_BSE, {config_.common.width()}, shift_scale[1],
                                   shift_scale[0], kFinalNormEps));
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transformer>> LoadPixArt(
    const std::filesystem::path& transformer_dir, const TransformerOptions& options) {
  const absl::StatusOr<PixArtConfig> config = ReadPixArtConfig(transformer_dir);
  if (!config.ok()) {
    return config.status();
  }
  const int count = config->common.num_blocks;
  const BlockRange blocks{options.blocks.begin,
                          options.blocks.end < 0 ? count : options.blocks.end};
  if (blocks.begin < 0 || blocks.end < blocks.begin || blocks.end > count) {
    return absl::InvalidArgumentError(absl::StrCat("blocks [", blocks.begin, ", ", blocks.end,
                                                   ") of a transformer with ", count));
  }
  const PixArtLayersOptions layers = LayersOf(*config, options.read);
  if (absl::Status status = CheckLayers(layers); !status.ok()) {
    return status;
  }
  ReadOptions read = options.read;
  read.dtype = DtypeBeside(read.dtype);
  absl::StatusOr<WeightReader> reader = WeightReader::Open(transformer_dir, read);
  if (!reader.ok()) {
    return reader.status();
  }
  auto pixart = std::make_unique<PixArt>(*config, blocks, *reader, layers);
  if (absl::Status status = reader->Finish(); !status.ok()) {
    return status;
  }
  return pixart;
}

}  // namespace patchflow
