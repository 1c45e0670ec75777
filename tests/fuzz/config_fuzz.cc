// The text of a server's configuration.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "server/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto config = patchflow::ParseConfig(text, "fuzz.yaml", "/nonexistent");
  if (!config.ok() && config.status().message().empty()) {
    std::abort();
  }
  return 0;
}
