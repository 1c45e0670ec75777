#include "engine/text/text_encoder.h"

#include <ATen/ATen.h>

#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/attention.h"
#include "engine/text/relative_bias.h"
#include "engine/text/t5_config.h"

namespace patchflow {
namespace {

// Shards of the feed-forward width are multiples of this where it has the factors: aligned products
// are faster.
constexpr int64_t kFeedForwardUnit = 64;

double LowestOf(at::ScalarType dtype) {
  if (dtype == at::kHalf) return static_cast<float>(std::numeric_limits<at::Half>::lowest());
  if (dtype == at::kBFloat16) {
    return static_cast<float>(std::numeric_limits<at::BFloat16>::lowest());
  }
  return std::numeric_limits<float>::lowest();
}

// The original's guard against float16: if anything is infinite, everything is cut short of it.
Tensor WithoutInfinities(const Tensor& h_BLD) {
  if (h_BLD.scalar_type() != at::kHalf) return h_BLD;
  constexpr double kMargin = 1000;
  const double lowest = LowestOf(at::kHalf);
  const Tensor low = at::where(h_BLD.isinf().any(), lowest + kMargin, lowest).to(at::kHalf);
  return h_BLD.clamp(low, -low);
}

struct RmsNorm {
  Tensor weight_D;
  double epsilon = 0;

  Tensor operator()(const Tensor& h_BLD) const {
    return at::rms_norm(h_BLD, weight_D.sizes(), {}, epsilon).to(weight_D.scalar_type()) * weight_D;
  }
};

struct Attention {
  RmsNorm norm;
  Linear q;
  Linear k;
  Linear v;
  RowLinear o;
  int64_t heads = 0;  // Held here.
  int64_t head_size = 0;

  Tensor operator()(const Tensor& h_BLD, const Tensor& bias_BHLL, PartialSum& tensor_axis) const {
    const Tensor x_BLD = norm(h_BLD);
    const auto by_head = [&](const Tensor& x) {
      return x.view({x.size(0), x.size(1), heads, head_size});
    };
    const Tensor o_BLHD =
        Sdpa(by_head(q(x_BLD)), by_head(k(x_BLD)), by_head(v(x_BLD)), bias_BHLL, /*scale=*/1);
    return WithoutInfinities(h_BLD + o(o_BLHD.flatten(2), tensor_axis));
  }
};

struct FeedForward {
  RmsNorm norm;
  T5Activation activation = T5Activation::kRelu;
  Linear up;
  Linear gate;  // Undefined without one.
  RowLinear down;

  Tensor Activated(const Tensor& x) const {
    switch (activation) {
      case T5Activation::kRelu:
        return at::relu(x);
      case T5Activation::kGelu:
        return at::gelu(x);
      case T5Activation::kGeluTanh:
        return at::gelu(x, "tanh");
      case T5Activation::kSilu:
        break;
    }
    return at::silu(x);
  }

  Tensor operator()(const Tensor& h_BLD, PartialSum& tensor_axis) const {
    const Tensor x_BLD = norm(h_BLD);
    Tensor inner = Activated(up(x_BLD));
    if (gate.weight_OI.defined()) inner = inner * gate(x_BLD);
    const Tensor out_BLD = down(inner.to(down.weight_OI.scalar_type()), tensor_axis);
    return WithoutInfinities(h_BLD + out_BLD);
  }
};

class T5Encoder final : public TextEncoder {
 public:
  T5Encoder(const T5Config& config, WeightReader& reader) : config_(config) {
    const bool shared = reader.Has("shared.weight");
    constexpr const char* kTied = "encoder.embed_tokens.weight";
    embedding_VD_ = reader.Raw(shared ? "shared.weight" : kTied, {config.vocabulary, config.width});
    if (shared) reader.Skip(kTied);
    WeightReader encoder = reader.In("encoder");
    for (int64_t i = 0; i < config.num_blocks; ++i) {
      WeightReader block = encoder.In(absl::StrCat("block.", i, ".layer"));
      attention_.push_back(ReadAttention(block.In("0")));
      feed_forward_.push_back(ReadFeedForward(block.In("1")));
    }
    bias_BucketH_ =
        encoder.RawSlice("block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                         {config.position_buckets, config.num_heads}, /*dim=*/1, /*unit=*/1);
    final_norm_ = {encoder.Raw("final_layer_norm.weight", {config.width}), config.norm_epsilon};
    reader.Skip("decoder");
    reader.Skip("lm_head");
    parameter_bytes_ = reader.bytes_read();
  }

  // Once the reader said that every tensor is there.
  void Finish() { bias_ = RelativeBias(std::exchange(bias_BucketH_, {}), config_.max_distance); }

  int64_t width() const override { return config_.width; }
  int64_t vocabulary() const override { return config_.vocabulary; }
  int64_t parameter_bytes() const override { return parameter_bytes_; }

  Tensor Encode(const Tensor& ids_BL, const Tensor& mask_BL,
                PartialSum& tensor_axis) const override {
    const Tensor bias_BHLL = Bias(mask_BL);
    Tensor h_BLD = at::embedding(embedding_VD_, ids_BL);
    for (size_t i = 0; i < attention_.size(); ++i) {
      h_BLD = attention_[i](h_BLD, bias_BHLL, tensor_axis);
      h_BLD = feed_forward_[i](h_BLD, tensor_axis);
    }
    return final_norm_(h_BLD);
  }

 private:
  Attention ReadAttention(WeightReader layer) const {
    const int64_t inner = config_.num_heads * config_.head_size;
    WeightReader self = layer.In("SelfAttention");
    const auto split = [&](const char* name) {
      return self.SplitOutputs(name, inner, config_.width, config_.head_size, Bias::kNo);
    };
    return {.norm = {layer.Raw("layer_norm.weight", {config_.width}), config_.norm_epsilon},
            .q = split("q"),
            .k = split("k"),
            .v = split("v"),
            .o = self.SplitInputs("o", config_.width, inner, config_.head_size, Bias::kNo),
            .heads = ShareOf(config_.num_heads, layer.options().shard).size(),
            .head_size = config_.head_size};
  }

  FeedForward ReadFeedForward(WeightReader layer) const {
    const int64_t inner = config_.feed_forward_width;
    const int64_t unit = std::gcd(inner, kFeedForwardUnit);
    WeightReader dense = layer.In("DenseReluDense");
    const auto split = [&](const char* name) {
      return dense.SplitOutputs(name, inner, config_.width, unit, Bias::kNo);
    };
    FeedForward out;
    out.norm = {layer.Raw("layer_norm.weight", {config_.width}), config_.norm_epsilon};
    out.activation = config_.activation;
    out.up = split(config_.gated ? "wi_0" : "wi");
    if (config_.gated) out.gate = split("wi_1");
    // Its products overflow float16, so that the original keeps it in float32.
    const at::ScalarType dtype = layer.options().dtype;
    out.down = dense.As(dtype == at::kHalf ? at::kFloat : dtype)
                   .SplitInputs("wo", config_.width, inner, unit, Bias::kNo);
    return out;
  }

  // Of the position, and the lowest number there is for keys that are padding.
  Tensor Bias(const Tensor& mask_BL) const {
    const at::ScalarType dtype = embedding_VD_.scalar_type();
    const Tensor padding_BL = (1 - mask_BL).to(dtype) * LowestOf(dtype);
    return AlignBias(bias_(mask_BL.size(1)) + padding_BL.unsqueeze(1).unsqueeze(1));
  }

  T5Config config_;
  Tensor embedding_VD_;
  std::vector<Attention> attention_;
  std::vector<FeedForward> feed_forward_;
  Tensor bias_BucketH_;
  RelativeBias bias_;
  RmsNorm final_norm_;
  int64_t parameter_bytes_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TextEncoder>> LoadTextEncoder(
    const std::filesystem::path& text_encoder_dir, const ReadOptions& options) {
  absl::StatusOr<T5Config> config = ReadT5Config(text_encoder_dir);
  if (!config.ok()) return config.status();
  absl::StatusOr<WeightReader> reader = WeightReader::Open(text_encoder_dir, options);
  if (!reader.ok()) return reader.status();
  auto encoder = std::make_unique<T5Encoder>(*config, *reader);
  if (absl::Status status = reader->Finish(); !status.ok()) return status;
  encoder->Finish();
  return encoder;
}

}  // namespace patchflow
