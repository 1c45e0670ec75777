// Safetensors files, valid or not, for tests.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

namespace patchflow {

inline std::string SafetensorsBytes(std::string_view header, std::string_view data) {
  const uint64_t length = header.size();
  std::string out(sizeof(length), '\0');
  std::memcpy(out.data(), &length, sizeof(length));
  return out.append(header).append(data);
}

inline std::string DtypeNameOf(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "F32";
    case at::kHalf:
      return "F16";
    case at::kBFloat16:
      return "BF16";
    case at::kDouble:
      return "F64";
    case at::kLong:
      return "I64";
    default:
      throw std::invalid_argument("no name for this dtype");
  }
}

struct SafetensorsParts {
  nlohmann::ordered_json header;
  std::string data;
};

// Tensors in the order of their names, as the format's own library writes them.
inline SafetensorsParts PartsOf(const std::map<std::string, at::Tensor>& tensors) {
  SafetensorsParts parts;
  parts.header["__metadata__"] = {{"format", "pt"}};
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor dense = tensor.contiguous();
    const size_t begin = parts.data.size();
    parts.data.append(static_cast<const char*>(dense.const_data_ptr()), dense.nbytes());
    parts.header[name] = {{"dtype", DtypeNameOf(dense.scalar_type())},
                          {"shape", dense.sizes().vec()},
                          {"data_offsets", {begin, parts.data.size()}}};
  }
  return parts;
}

inline std::string SafetensorsBytes(const std::map<std::string, at::Tensor>& tensors,
                                    size_t alignment = 8) {
  const SafetensorsParts parts = PartsOf(tensors);
  std::string header = parts.header.dump();
  while (header.size() % alignment != 0) header += ' ';
  return SafetensorsBytes(header, parts.data);
}

}  // namespace patchflow
