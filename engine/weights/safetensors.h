// One safetensors file, mapped into memory.
// Format: u64 length of the header (little endian), a JSON header {name: {dtype, shape,
// data_offsets}}, row-major data.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace patchflow {

struct StoredTensor {
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  std::byte* data;  // Mapped and possibly unaligned. What is written stays in this process.
  int64_t bytes;
};

// Immutable, thread-safe. Truncating the file while it is mapped ends the process (SIGBUS), as with
// every mapping.
class SafetensorsFile {
 public:
  // NOT_FOUND if there is no such file. INVALID_ARGUMENT, naming the file, the tensor and the
  // numbers, for whatever the header can get wrong: its length, JSON, an unknown dtype, a shape
  // that overflows, a size that is not shape x dtype, offsets outside the file, tensors that
  // overlap or leave bytes unused (the format forbids both).
  static absl::StatusOr<std::shared_ptr<const SafetensorsFile>> Open(
      const std::filesystem::path& file);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }

 private:
  SafetensorsFile(std::filesystem::path path, std::byte* mapped, size_t bytes);
  absl::Status ReadHeader();

  std::filesystem::path path_;
  std::byte* mapped_;
  size_t bytes_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

}  // namespace patchflow
