#include "server/weight_files.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // As the safetensors library has it.
constexpr uint64_t kMaxJsonBytes = 64 << 20;

absl::Status Fault(const fs::path& file, const std::string& text) {
  return absl::InvalidArgumentError(absl::StrCat(file.string(), ": ", text));
}

absl::StatusOr<json> ReadJson(const fs::path& file) {
  std::error_code error;
  const auto size = fs::file_size(file, error);
  std::ifstream stream(file, std::ios::binary);
  if (error || !stream || size > kMaxJsonBytes) {
    return Fault(file, "cannot be read");
  }
  json parsed = json::parse(stream, nullptr, false);
  if (!parsed.is_object()) {
    return Fault(file, "is no JSON object");
  }
  return parsed;
}

absl::Status CheckShards(const fs::path& index) {
  auto parsed = ReadJson(index);
  if (!parsed.ok()) {
    return parsed.status();
  }
  const auto map = parsed->find("weight_map");
  if (map == parsed->end() || !map->is_object()) {
    return Fault(index, "has no weight_map");
  }
  for (const auto& [tensor, shard] : map->items()) {
    std::error_code error;
    if (!shard.is_string() || !fs::is_regular_file(index.parent_path() / shard, error)) {
      return Fault(
          index, absl::StrCat("tensor ", tensor, " is in ", shard.dump(), ", which is not there"));
    }
  }
  return absl::OkStatus();
}

// The end of the last tensor, from the start of the data.
absl::StatusOr<uint64_t> DataBytes(const fs::path& file, const json& header) {
  uint64_t bytes = 0;
  for (const auto& [name, tensor] : header.items()) {
    if (name == "__metadata__") {
      continue;
    }
    const json offsets = tensor.is_object() ? tensor.value("data_offsets", json()) : json();
    if (!offsets.is_array() || offsets.size() != 2 || !offsets[1].is_number_unsigned()) {
      return Fault(file, absl::StrCat("tensor ", name, " has no data_offsets"));
    }
    bytes = std::max(bytes, offsets[1].get<uint64_t>());
  }
  return bytes;
}

struct Header {
  json tensors;
  uint64_t bytes = 0;  // With the length before it.
};

absl::StatusOr<Header> ReadHeader(const fs::path& file, uint64_t size) {
  std::ifstream stream(file, std::ios::binary);
  unsigned char prefix[8] = {};
  stream.read(reinterpret_cast<char*>(prefix), sizeof prefix);
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) {
    header_bytes = header_bytes << 8 | prefix[i];
  }
  if (!stream || header_bytes > kMaxHeaderBytes || 8 + header_bytes > size) {
    return Fault(file, "has no header of safetensors");
  }
  std::string text(header_bytes, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  Header header{json::parse(text, nullptr, false), 8 + header_bytes};
  if (!header.tensors.is_object()) {
    return Fault(file, "its header is no JSON object");
  }
  return header;
}

absl::Status CheckSafetensors(const fs::path& file, int64_t& total) {
  std::error_code error;
  const uint64_t size = fs::file_size(file, error);
  auto header = ReadHeader(file, error ? 0 : size);
  if (!header.ok()) {
    return header.status();
  }
  auto data = DataBytes(file, header->tensors);
  if (!data.ok()) {
    return data.status();
  }
  if (header->bytes + *data != size) {
    return Fault(file,
                 absl::StrCat("has ", size, " bytes; its header says ", header->bytes + *data));
  }
  total += static_cast<int64_t>(size);
  return absl::OkStatus();
}

absl::Status CheckComponents(const fs::path& directory) {
  auto index = ReadJson(directory / "model_index.json");
  if (!index.ok()) {
    return index.status();
  }
  for (const auto& [name, value] : index->items()) {
    const bool component = value.is_array() && value.size() == 2 && value[0].is_string();
    if (component && !fs::is_directory(directory / name)) {
      return Fault(directory / name, "is not there; model_index.json names it");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<WeightFiles> CheckWeightFiles(const std::string& directory) {
  if (absl::Status status = CheckComponents(directory); !status.ok()) {
    return status;
  }
  WeightFiles found;
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(
           directory, fs::directory_options::follow_directory_symlink, error)) {
    const std::string name = entry.path().filename().string();
    absl::Status status;
    if (absl::EndsWith(name, ".safetensors.index.json")) {
      status = CheckShards(entry.path());
    } else if (absl::EndsWith(name, ".safetensors")) {
      status = CheckSafetensors(entry.path(), found.bytes);
      ++found.files;
    }
    if (!status.ok()) {
      return status;
    }
  }
  if (error || found.files == 0) {
    return Fault(directory, "holds no *.safetensors");
  }
  return found;
}

absl::StatusOr<std::map<std::string, int64_t>> TensorElements(const std::string& folder) {
  std::map<std::string, int64_t> elements;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".safetensors") {
      continue;
    }
    auto header = ReadHeader(entry.path(), fs::file_size(entry.path(), error));
    if (!header.ok()) {
      return header.status();
    }
    for (const auto& [name, tensor] : header->tensors.items()) {
      const json shape = tensor.is_object() ? tensor.value("shape", json()) : json();
      if (name == "__metadata__" || !shape.is_array()) {
        continue;
      }
      int64_t count = 1;
      for (const json& dim : shape) {
        if (!dim.is_number_unsigned() || dim.get<uint64_t>() > uint64_t{1} << 32 ||
            count > int64_t{1} << 40) {
          return Fault(entry.path(), absl::StrCat("tensor ", name, " has no shape"));
        }
        count *= dim.get<int64_t>();
      }
      elements[name] += count;
    }
  }
  return elements;
}

}  // namespace patchflow
