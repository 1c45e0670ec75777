#include "bench/random_vae.h"

#include <ATen/ATen.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/engine/weights/safetensors_writer.h"

namespace patchflow {
namespace {

constexpr int64_t kLatentChannels = 4;
constexpr int kResnetsPerBlock = 3;
const std::vector<int64_t> kUpChannels = {512, 512, 256, 128};

class RandomWeights {
 public:
  void Norm(const std::string& name, int64_t channels) {
    Put(name + ".weight", at::ones({channels}));
    Put(name + ".bias", at::zeros({channels}));
  }
  void Conv(const std::string& name, int64_t out, int64_t in, int64_t kernel) {
    const double fan_in = static_cast<double>(in * kernel * kernel);
    Put(name + ".weight", at::randn({out, in, kernel, kernel}) / std::sqrt(fan_in));
    Put(name + ".bias", at::randn({out}) * 0.1);
  }
  void Linear(const std::string& name, int64_t channels) {
    Put(name + ".weight",
        at::randn({channels, channels}) / std::sqrt(static_cast<double>(channels)));
    Put(name + ".bias", at::randn({channels}) * 0.1);
  }
  void Resnet(const std::string& name, int64_t in, int64_t out) {
    Norm(name + ".norm1", in);
    Conv(name + ".conv1", out, in, 3);
    Norm(name + ".norm2", out);
    Conv(name + ".conv2", out, out, 3);
    if (in != out) Conv(name + ".conv_shortcut", out, in, 1);
  }
  const std::map<std::string, at::Tensor>& tensors() const { return tensors_; }

 private:
  void Put(const std::string& name, const at::Tensor& value) {
    tensors_[name] = value.to(at::kBFloat16);
  }
  std::map<std::string, at::Tensor> tensors_;
};

RandomWeights Decoder() {
  RandomWeights weights;
  const int64_t middle = kUpChannels.front();
  weights.Conv("post_quant_conv", kLatentChannels, kLatentChannels, 1);
  weights.Conv("decoder.conv_in", middle, kLatentChannels, 3);
  weights.Resnet("decoder.mid_block.resnets.0", middle, middle);
  const std::string attention = "decoder.mid_block.attentions.0.";
  weights.Norm(attention + "group_norm", middle);
  for (const char* part : {"to_q", "to_k", "to_v", "to_out.0"}) {
    weights.Linear(attention + part, middle);
  }
  weights.Resnet("decoder.mid_block.resnets.1", middle, middle);
  int64_t in = middle;
  for (size_t i = 0; i < kUpChannels.size(); ++i) {
    const std::string block = "decoder.up_blocks." + std::to_string(i);
    const int64_t out = kUpChannels[i];
    for (int j = 0; j < kResnetsPerBlock; ++j) {
      weights.Resnet(block + ".resnets." + std::to_string(j), j == 0 ? in : out, out);
    }
    if (i + 1 < kUpChannels.size()) weights.Conv(block + ".upsamplers.0.conv", out, out, 3);
    in = out;
  }
  weights.Norm("decoder.conv_norm_out", in);
  weights.Conv("decoder.conv_out", 3, in, 3);
  return weights;
}

}  // namespace

void WriteRandomVae(const std::filesystem::path& dir) {
  const nlohmann::json config = {
      {"_class_name", "AutoencoderKL"},
      {"block_out_channels", {128, 256, 512, 512}},
      {"layers_per_block", kResnetsPerBlock - 1},
      {"latent_channels", kLatentChannels},
      {"norm_num_groups", 32},
      {"out_channels", 3},
      {"scaling_factor", 0.18215},
      {"force_upcast", false},
      {"up_block_types", std::vector<std::string>(kUpChannels.size(), "UpDecoderBlock2D")},
  };
  std::ofstream(dir / "config.json") << config.dump(1);
  std::ofstream weights(dir / "diffusion_pytorch_model.safetensors", std::ios::binary);
  weights << SafetensorsBytes(Decoder().tensors());
  weights.flush();
  if (!weights) throw std::runtime_error("cannot write the weights into " + dir.string());
}

}  // namespace patchflow
