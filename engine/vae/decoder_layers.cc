#include "engine/vae/decoder_layers.h"

#include <ATen/ATen.h>

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

// Tensor cores take channels in eights.
constexpr int64_t kGpuChannelMultiple = 8;

class LayerReader {
 public:
  LayerReader(const WeightReader& weights, int64_t groups)
      : weights_(weights.As(at::kFloat)), dtype_(weights.options().dtype), groups_(groups) {}

  GroupNorm Norm(std::string_view name, int64_t channels) {
    WeightReader here = weights_.In(name);
    return {Held(here.Raw("weight", {channels})), Held(here.Raw("bias", {channels})), groups_};
  }

  Convolution Conv(std::string_view name, int64_t out, int64_t in) {
    WeightReader here = weights_.In(name);
    const Tensor weight = here.Raw("weight", {out, in, 3, 3});
    return {Kernel(FilledUp(weight)), Held(here.Raw("bias", {out}))};
  }

  PhaseConvolution Phases(std::string_view name, int64_t channels) {
    WeightReader here = weights_.In(name);
    const Tensor weight = here.Raw("weight", {channels, channels, 3, 3});
    return {Kernel(weight.defined() ? PhaseWeights(weight) : weight),
            Held(here.Raw("bias", {channels}))};
  }

  // A 1x1 convolution, as it stands in the file or as a matrix.
  Projection Project(std::string_view name, int64_t out, int64_t in) {
    WeightReader here = weights_.In(name);
    return {Held(Matrix(here, out, in), dtype_), Held(here.Raw("bias", {out}))};
  }

  Linear LinearIn(at::ScalarType dtype, std::string_view name, int64_t out, int64_t in) {
    WeightReader here = weights_.In(name);
    return {Held(Matrix(here, out, in), dtype), Held(here.Raw("bias", {out}), dtype)};
  }

  Resnet Block(std::string_view name, int64_t in, int64_t out) {
    const auto sub = [&](std::string_view part) {
      return absl::StrCat(std::string(name), ".", std::string(part));
    };
    Resnet resnet{Norm(sub("norm1"), in), Conv(sub("conv1"), out, in), Norm(sub("norm2"), out),
                  Conv(sub("conv2"), out, out), std::nullopt};
    if (in != out) resnet.shortcut = Project(sub("conv_shortcut"), out, in);
    return resnet;
  }

  MiddleAttention Attention(std::string_view name, int64_t channels) {
    const auto sub = [&](std::string_view now, std::string_view old) {
      const std::string scope = absl::StrCat(std::string(name), ".");
      const std::string old_name = absl::StrCat(scope, std::string(old));
      return weights_.Has(absl::StrCat(old_name, ".weight"))
                 ? old_name
                 : absl::StrCat(scope, std::string(now));
    };
    return {Norm(sub("group_norm", "group_norm"), channels),
            LinearIn(dtype_, sub("to_q", "query"), channels, channels),
            LinearIn(dtype_, sub("to_k", "key"), channels, channels),
            LinearIn(dtype_, sub("to_v", "value"), channels, channels),
            Project(sub("to_out.0", "proj_attn"), channels, channels)};
  }

  int64_t bytes() const { return bytes_; }

 private:
  Tensor Held(const Tensor& t, at::ScalarType dtype = at::kFloat) {
    if (!t.defined()) return t;
    Tensor held = t.to(dtype);
    bytes_ += static_cast<int64_t>(held.nbytes());
    return held;
  }

  Tensor Kernel(const Tensor& weight) {
    if (!weight.defined()) return weight;
    return Held(weight, dtype_).contiguous(at::MemoryFormat::ChannelsLast);
  }

  static Tensor FilledUp(const Tensor& weight) {
    if (!weight.defined() || !weight.is_cuda()) return weight;
    const int64_t missing = -weight.size(0) & (kGpuChannelMultiple - 1);
    return at::constant_pad_nd(weight, {0, 0, 0, 0, 0, 0, 0, missing});
  }

  static Tensor Matrix(WeightReader& here, int64_t out, int64_t in) {
    const bool convolution = here.ShapeOf("weight").size() == 4;
    const Tensor weight =
        convolution ? here.Raw("weight", {out, in, 1, 1}) : here.Raw("weight", {out, in});
    return weight.defined() ? weight.view({out, in}) : weight;
  }

  WeightReader weights_;
  at::ScalarType dtype_;
  int64_t groups_;
  int64_t bytes_ = 0;
};

std::vector<UpBlock> ReadUpBlocks(LayerReader& layers, const VaeArchitecture& vae) {
  std::vector<UpBlock> blocks;
  int64_t in = vae.block_channels.front();
  for (size_t i = 0; i < vae.block_channels.size(); ++i) {
    const std::string scope = absl::StrCat("decoder.up_blocks.", i);
    const int64_t out = vae.block_channels[i];
    UpBlock block;
    for (int64_t j = 0; j < vae.resnets_per_block; ++j) {
      block.resnets.push_back(
          layers.Block(absl::StrCat(scope, ".resnets.", j), j == 0 ? in : out, out));
    }
    if (i + 1 < vae.block_channels.size()) {
      block.upsampler = layers.Phases(absl::StrCat(scope, ".upsamplers.0.conv"), out);
    }
    blocks.push_back(std::move(block));
    in = out;
  }
  return blocks;
}

}  // namespace

absl::StatusOr<DecoderLayers> ReadDecoderLayers(const std::filesystem::path& vae_dir,
                                                const VaeArchitecture& vae,
                                                const ReadOptions& options) {
  absl::StatusOr<WeightReader> weights = WeightReader::Open(vae_dir, options);
  if (!weights.ok()) return weights.status();
  weights->Skip("encoder");
  weights->Skip("quant_conv");
  LayerReader layers(*weights, vae.groups);
  const int64_t latents = vae.config.latent_channels;
  const int64_t middle = vae.block_channels.front();
  const int64_t last = vae.block_channels.back();
  DecoderLayers decoder;
  if (vae.post_quant_conv) {
    decoder.post_quant = layers.LinearIn(at::kFloat, "post_quant_conv", latents, latents);
  }
  decoder.conv_in = layers.Conv("decoder.conv_in", middle, latents);
  decoder.middle_first = layers.Block("decoder.mid_block.resnets.0", middle, middle);
  if (vae.middle_attention) {
    decoder.attention = layers.Attention("decoder.mid_block.attentions.0", middle);
  }
  decoder.middle_last = layers.Block("decoder.mid_block.resnets.1", middle, middle);
  decoder.up = ReadUpBlocks(layers, vae);
  decoder.norm_out = layers.Norm("decoder.conv_norm_out", last);
  decoder.conv_out = layers.Conv("decoder.conv_out", 3, last);
  decoder.bytes = layers.bytes();
  if (absl::Status status = weights->Finish(); !status.ok()) return status;
  return decoder;
}

}  // namespace patchflow
