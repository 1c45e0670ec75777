// A safetensors file: the length of its header, the header, data.
#include "engine/weights/safetensors.h"

#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const patchflow::MemoryFile file(data, size);
  const auto opened = patchflow::SafetensorsFile::Open(file.path());
  if (!opened.ok()) {
    return 0;
  }
  int64_t sum = 0;  // Every byte that a header speaks of can be read.
  for (const auto& [name, tensor] : (*opened)->tensors()) {
    for (int64_t i = 0; i < tensor.bytes; ++i) {
      sum += static_cast<int64_t>(tensor.data[i]);
    }
  }
  return sum < 0 ? std::abort(), 0 : 0;
}
