// Keys and values that go into image files: lines "key=value".
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/image/metadata.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  patchflow::Metadata metadata;
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    const size_t split = line.find('=');
    metadata.emplace_back(line.substr(0, split),
                          split == line.npos ? std::string_view() : line.substr(split + 1));
  }
  if (!patchflow::CheckMetadata(metadata).ok()) {
    return 0;
  }
  // What passed is well-formed XML: no control character, no '<' but those of its own elements.
  size_t opened = 0;
  for (const char c : patchflow::XmpPacket(metadata)) {
    opened += c == '<' ? 1 : 0;
    if ((static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\n' && c != '\r')) {
      std::abort();
    }
  }
  static const size_t kEmpty = [] {
    size_t n = 0;
    for (const char c : patchflow::XmpPacket({})) n += c == '<' ? 1 : 0;
    return n;
  }();
  if (opened != kEmpty + 2 * metadata.size()) {
    std::abort();
  }
  return 0;
}
