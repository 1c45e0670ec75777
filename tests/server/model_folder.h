// A diffusers directory that is whole, for tests that load nothing.
#pragma once

#include <string>

#include "tests/server/scratch_folder.h"

namespace patchflow {

// Length, header, data.
inline std::string Safetensors(const std::string& header, size_t data_bytes) {
  std::string file;
  for (int i = 0; i < 8; ++i) {
    file.push_back(static_cast<char>(header.size() >> (8 * i)));
  }
  return file + header + std::string(data_bytes, 'w');
}

inline void WriteModelFolder(const ScratchFolder& folder, const std::string& name) {
  folder.Write(name + "/model_index.json",
               R"({"_class_name": "P", "vae": ["diffusers", "AutoencoderKL"]})");
  folder.Write(
      name + "/vae/weights.safetensors",
      Safetensors(R"({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}})", 16));
}

}  // namespace patchflow
