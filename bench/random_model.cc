#include "bench/random_model.h"

#include <ATen/ATen.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace patchflow {
namespace {

using at::Tensor;

struct Entry {
  std::vector<int64_t> shape;
  double deviation = 0;
  double mean = 0;
};

// A safetensors file, written tensor by tensor, so that no more than one is in memory.
class RandomFile {
 public:
  void Tensor(const std::string& name, std::vector<int64_t> shape, double deviation,
              double mean = 0) {
    entries_[name] = {std::move(shape), deviation, mean};
  }
  void Linear(const std::string& name, int64_t out, int64_t in, bool bias = true) {
    Tensor(name + ".weight", {out, in}, 1 / std::sqrt(static_cast<double>(in)));
    if (bias) Tensor(name + ".bias", {out}, 0.1);
  }

  void Write(const RandomWeights& weights, const std::filesystem::path& file) const {
    const int64_t item_bytes = static_cast<int64_t>(c10::elementSize(weights.dtype));
    nlohmann::ordered_json header;
    int64_t offset = 0;
    for (const auto& [name, entry] : entries_) {
      const int64_t bytes = c10::multiply_integers(entry.shape) * item_bytes;
      header[name] = {{"dtype", weights.dtype == at::kBFloat16 ? "BF16" : "F32"},
                      {"shape", entry.shape},
                      {"data_offsets", {offset, offset + bytes}}};
      offset += bytes;
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    std::ofstream out(file, std::ios::binary);
    const uint64_t length = text.size();
    out.write(reinterpret_cast<const char*>(&length), sizeof(length));
    out << text;
    for (const auto& [name, entry] : entries_) {
      const at::Tensor values =
          at::empty(entry.shape, at::TensorOptions().device(weights.device).dtype(weights.dtype))
              .normal_(entry.mean, entry.deviation)
              .cpu();
      out.write(static_cast<const char*>(values.const_data_ptr()),
                static_cast<std::streamsize>(values.nbytes()));
    }
    out.flush();
    if (!out) throw std::runtime_error("cannot write " + file.string());
  }

 private:
  std::map<std::string, Entry> entries_;
};

void WriteConfig(const nlohmann::json& config, const std::filesystem::path& dir) {
  std::ofstream out(dir / "config.json");
  out << config.dump(1) << "\n";
  out.flush();
  if (!out) throw std::runtime_error("cannot write " + (dir / "config.json").string());
}

void AddPixArtBlock(const std::string& name, int64_t width, RandomFile& file) {
  file.Tensor(name + ".scale_shift_table", {6, width}, 0.2);
  for (const char* attention : {".attn1", ".attn2"}) {
    for (const char* part : {".to_q", ".to_k", ".to_v", ".to_out.0"}) {
      file.Linear(name + attention + part, width, width);
    }
  }
  file.Linear(name + ".ff.net.0.proj", 4 * width, width);
  file.Linear(name + ".ff.net.2", width, 4 * width);
}

void AddEmbedder(const std::string& name, int64_t out, RandomFile& file) {
  constexpr int64_t kSinusoid = 256;
  file.Linear(name + ".linear_1", out, kSinusoid);
  file.Linear(name + ".linear_2", out, out);
}

}  // namespace

void WriteRandomPixArt(const PixArtShape& shape, const RandomWeights& weights,
                       const std::filesystem::path& dir) {
  const int64_t width = shape.heads * shape.head_size;
  WriteConfig({{"_class_name", "PixArtTransformer2DModel"},
               {"activation_fn", "gelu-approximate"},
               {"attention_type", "default"},
               {"norm_type", "ada_norm_single"},
               {"num_layers", shape.blocks},
               {"num_attention_heads", shape.heads},
               {"attention_head_dim", shape.head_size},
               {"cross_attention_dim", width},
               {"caption_channels", shape.caption_width},
               {"in_channels", 4},
               {"out_channels", 8},
               {"patch_size", 2},
               {"sample_size", 128},
               {"use_additional_conditions", true}},
              dir);
  RandomFile file;
  file.Tensor("pos_embed.proj.weight", {width, 4, 2, 2}, 0.25);
  file.Tensor("pos_embed.proj.bias", {width}, 0.1);
  file.Linear("caption_projection.linear_1", width, shape.caption_width);
  file.Linear("caption_projection.linear_2", width, width);
  AddEmbedder("adaln_single.emb.timestep_embedder", width, file);
  AddEmbedder("adaln_single.emb.resolution_embedder", width / 3, file);
  AddEmbedder("adaln_single.emb.aspect_ratio_embedder", width / 3, file);
  file.Linear("adaln_single.linear", 6 * width, width);
  for (int64_t i = 0; i < shape.blocks; ++i) {
    AddPixArtBlock("transformer_blocks." + std::to_string(i), width, file);
  }
  file.Tensor("scale_shift_table", {2, width}, 0.2);
  file.Linear("proj_out", 2 * 2 * 8, width);
  file.Write(weights, dir / "diffusion_pytorch_model.safetensors");
}

void WriteRandomT5(const T5Shape& shape, const RandomWeights& weights,
                   const std::filesystem::path& dir) {
  constexpr int64_t kBuckets = 32;
  WriteConfig({{"model_type", "t5"},
               {"vocab_size", shape.vocabulary},
               {"d_model", shape.width},
               {"d_kv", shape.head_size},
               {"d_ff", shape.feed_forward_width},
               {"num_layers", shape.blocks},
               {"num_heads", shape.heads},
               {"relative_attention_num_buckets", kBuckets},
               {"relative_attention_max_distance", 128},
               {"layer_norm_epsilon", 1e-6},
               {"feed_forward_proj", "gated-gelu"},
               {"is_encoder_decoder", false}},
              dir);
  const int64_t inner = shape.heads * shape.head_size;
  RandomFile file;
  file.Tensor("shared.weight", {shape.vocabulary, shape.width}, 1);
  for (int64_t i = 0; i < shape.blocks; ++i) {
    const std::string layer = "encoder.block." + std::to_string(i) + ".layer.";
    const std::string self = layer + "0.SelfAttention.";
    // T5 does not scale scores: its queries are small instead.
    file.Tensor(self + "q.weight", {inner, shape.width},
                1 / std::sqrt(static_cast<double>(shape.width * shape.head_size)));
    for (const char* part : {"k", "v"}) file.Linear(self + part, inner, shape.width, false);
    file.Linear(self + "o", shape.width, inner, false);
    file.Tensor(layer + "0.layer_norm.weight", {shape.width}, 0.1, 1);
    if (i == 0) file.Tensor(self + "relative_attention_bias.weight", {kBuckets, shape.heads}, 0.5);
    const std::string dense = layer + "1.DenseReluDense.";
    for (const char* part : {"wi_0", "wi_1"}) {
      file.Linear(dense + part, shape.feed_forward_width, shape.width, false);
    }
    file.Linear(dense + "wo", shape.width, shape.feed_forward_width, false);
    file.Tensor(layer + "1.layer_norm.weight", {shape.width}, 0.1, 1);
  }
  file.Tensor("encoder.final_layer_norm.weight", {shape.width}, 0.1, 1);
  file.Write(weights, dir / "model.safetensors");
}

}  // namespace patchflow
