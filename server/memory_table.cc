#include "server/memory_table.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "server/weight_files.h"

namespace patchflow {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr int64_t kTensorsOfAStep = 12;
constexpr int64_t kTensorsOfDecoding = 2;
constexpr int64_t kSlabBytes = 768 << 20;
constexpr char kBlock[] = "transformer_blocks.";
constexpr size_t kMaxBlocks = 1024;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Numbers of a config.json by their names; what is missing is noted.
class Config {
 public:
  Config(const fs::path& file, std::string& missing) : file_(file), missing_(missing) {
    std::ifstream stream(file);
    values_ = json::parse(stream, nullptr, false);
  }
  int64_t Number(const char* name) {
    return Positive(name, values_.is_object() ? values_.value(name, json()) : json());
  }
  json List(const char* name) const {
    const json list = values_.is_object() ? values_.value(name, json()) : json();
    return list.is_array() ? list : json::array();
  }
  int64_t Positive(const std::string& name, const json& value) {
    if (value.is_number_integer() && value.get<int64_t>() > 0 &&
        value.get<int64_t>() <= int64_t{1} << 20) {
      return value.get<int64_t>();
    }
    absl::StrAppend(&missing_, missing_.empty() ? "" : ", ", file_.string(), ": ", name);
    return 1;
  }

 private:
  const fs::path file_;
  std::string& missing_;
  json values_;
};

absl::Status AddTransformer(const std::string& folder, ModelShape& shape) {
  auto elements = TensorElements(folder);
  if (!elements.ok()) {
    return elements.status();
  }
  for (const auto& [name, count] : *elements) {
    absl::string_view rest = name;
    size_t block = 0;
    const bool of_block = absl::ConsumePrefix(&rest, kBlock) &&
                          absl::SimpleAtoi(rest.substr(0, rest.find('.')), &block) &&
                          block < kMaxBlocks;
    if (!of_block) {
      shape.transformer_elements += count;
      continue;
    }
    shape.block_elements.resize(std::max(shape.block_elements.size(), block + 1));
    shape.block_elements[block] += count;
  }
  return absl::OkStatus();
}

// First block and the one after the last.
std::pair<int64_t, int64_t> BlocksOf(const LayoutDegrees& layout, int64_t stage, int64_t blocks) {
  int64_t begin = 0;
  for (int64_t i = 0;; ++i) {
    const int64_t share =
        static_cast<size_t>(i) < layout.blocks.size()
            ? layout.blocks[static_cast<size_t>(i)]
            : blocks / layout.pipefusion + (i < blocks % layout.pipefusion ? 1 : 0);
    if (i == stage) {
      return {std::min(begin, blocks), std::min(begin + share, blocks)};
    }
    begin += share;
  }
}

}  // namespace

absl::StatusOr<ModelShape> ReadModelShape(const std::string& directory) {
  ModelShape shape;
  auto text = TensorElements(directory + "/text_encoder");
  auto vae = TensorElements(directory + "/vae");
  absl::Status status = AddTransformer(directory + "/transformer", shape);
  status.Update(text.status());
  status.Update(vae.status());
  if (!status.ok()) {
    return status;
  }
  for (const auto& [name, count] : *text) {
    shape.text_elements += count;
  }
  for (const auto& [name, count] : *vae) {
    const bool encodes = name.rfind("encoder.", 0) == 0 || name.rfind("quant_conv.", 0) == 0;
    shape.decoder_elements += encodes ? 0 : count;
  }
  std::string missing;
  Config transformer(directory + "/transformer/config.json", missing);
  shape.width =
      transformer.Number("num_attention_heads") * transformer.Number("attention_head_dim");
  Config decoder(directory + "/vae/config.json", missing);
  const json channels = decoder.List("block_out_channels");
  shape.decoder_channels =
      decoder.Positive("block_out_channels", channels.empty() ? json() : channels[0]);
  const int64_t latent_px = int64_t{1}
                            << std::min<size_t>(channels.empty() ? 0 : channels.size() - 1, 8);
  shape.token_px = latent_px * transformer.Number("patch_size");
  shape.own_size_px = latent_px * transformer.Number("sample_size");
  if (shape.block_elements.empty() || shape.text_elements == 0 || shape.decoder_elements == 0) {
    absl::StrAppend(&missing, missing.empty() ? "" : ", ",
                    "weights of transformer blocks, text encoder and VAE");
  }
  if (!missing.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("not told: ", missing));
  }
  return shape;
}

LayoutDegrees DegreesOf(const std::string& layout) {
  LayoutDegrees degrees;
  for (const absl::string_view part : absl::StrSplit(layout, ',', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> pair = absl::StrSplit(part, '=');
    for (const auto& [name, degree] :
         {std::pair{"pipefusion", &degrees.pipefusion}, std::pair{"patches", &degrees.patches},
          std::pair{"distrifusion", &degrees.distrifusion}, std::pair{"ulysses", &degrees.ulysses},
          std::pair{"ring", &degrees.ring}, std::pair{"tensor", &degrees.tensor},
          std::pair{"guidance", &degrees.guidance}}) {
      int64_t value = 0;
      if (pair.first == name && absl::SimpleAtoi(pair.second, &value) && value > 0) {
        *degree = value;
      }
    }
    if (pair.first == "shared_text") {
      degrees.shared_text = pair.second == "1";
    }
    if (pair.first == "blocks") {
      for (const absl::string_view count : absl::StrSplit(pair.second, '+')) {
        int64_t value = 0;
        if (absl::SimpleAtoi(count, &value)) {
          degrees.blocks.push_back(value);
        }
      }
    }
  }
  return degrees;
}

RankMemory MemoryOfRank(const ModelShape& shape, const LayoutDegrees& layout, int64_t rank,
                        int64_t width_px, int64_t height_px, int64_t element_bytes,
                        int64_t batch_size) {
  const int64_t stage = rank / (layout.tensor * layout.sequence()) % layout.pipefusion;
  const auto [first, end] =
      BlocksOf(layout, stage, static_cast<int64_t>(shape.block_elements.size()));
  int64_t blocks = 0;
  for (int64_t i = first; i < end; ++i) {
    blocks += shape.block_elements[static_cast<size_t>(i)];
  }
  RankMemory memory;
  memory.weights =
      element_bytes *
      (CeilDiv(shape.text_elements, layout.shared_text ? layout.ranks() : 1) +
       CeilDiv(blocks, layout.tensor) + shape.transformer_elements + shape.decoder_elements);
  const int64_t rows = batch_size * (layout.guidance > 1 ? 1 : 2);
  const int64_t tokens =
      CeilDiv(width_px, shape.token_px) * CeilDiv(height_px, shape.token_px) * rows;
  const bool pipelined = layout.pipefusion > 1 || layout.patches > 1;
  if (pipelined || layout.distrifusion > 1) {
    memory.caches = element_bytes * 2 * CeilDiv(tokens, layout.ulysses * layout.ring) *
                    CeilDiv(shape.width, layout.tensor) * (end - first);
  }
  const int64_t step = element_bytes * kTensorsOfAStep * CeilDiv(tokens, layout.sequence()) *
                       CeilDiv(shape.width, layout.tensor);
  const int64_t pixels = CeilDiv(width_px * height_px, layout.ranks());
  const int64_t decoding =
      kSlabBytes + element_bytes * kTensorsOfDecoding * shape.decoder_channels * pixels;
  memory.work = std::max(step, decoding);
  return memory;
}

}  // namespace patchflow
