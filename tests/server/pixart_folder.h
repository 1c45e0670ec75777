// Headers and configurations of PixArt-Sigma-XL/2 with T5-XXL's encoder, without the weights.
#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/server/model_folder.h"
#include "tests/server/scratch_folder.h"

namespace patchflow {

inline void WritePixartFolder(const ScratchFolder& folder, const std::string& name) {
  const auto tensor = [](const std::string& called, const std::string& shape) {
    return absl::StrCat("\"", called, R"(": {"dtype": "F16", "shape": [)", shape,
                        R"(], "data_offsets": [0, 0]})");
  };
  folder.Write(name + "/text_encoder/a.safetensors",
               Safetensors("{" + tensor("shared.weight", "2, 2381155328") + "}", 0));
  std::string transformer = "{" + tensor("adaln_single.linear.weight", "6912, 1152");
  for (int block = 0; block < 28; ++block) {  // 16 d^2 each: two attentions and the MLP.
    absl::StrAppend(&transformer, ", ",
                    tensor(absl::StrCat("transformer_blocks.", block, ".w"), "16, 1152, 1152"));
  }
  folder.Write(name + "/transformer/a.safetensors", Safetensors(transformer + "}", 0));
  folder.Write(name + "/transformer/config.json",
               R"({"num_attention_heads": 16, "attention_head_dim": 72, "patch_size": 2,
                   "sample_size": 128})");
  folder.Write(
      name + "/vae/a.safetensors",
      Safetensors("{" + tensor("decoder.w", "49490179") + ", " + tensor("encoder.w", "34163592") +
                      ", " + tensor("quant_conv.w", "72") + "}",
                  0));
  folder.Write(name + "/vae/config.json", R"({"block_out_channels": [128, 256, 512, 512]})");
}

}  // namespace patchflow
