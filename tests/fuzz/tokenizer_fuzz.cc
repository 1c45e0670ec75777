// A prompt, which is valid UTF-8 by the time that it comes to a tokenizer.
#include "engine/text/tokenizer.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace {

const patchflow::Tokenizer& TheTokenizer() {
  static const auto* loaded = new absl::StatusOr<std::unique_ptr<patchflow::Tokenizer>>(
      patchflow::LoadTokenizer(PATCHFLOW_FUZZ_TOKENIZER));
  if (!loaded->ok()) {
    std::fprintf(stderr, "%s\n", loaded->status().ToString().c_str());
    std::abort();
  }
  return ***loaded;
}

bool IsUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const int more = lead < 0x80                   ? 0
                     : lead >= 0xc2 && lead < 0xe0 ? 1
                     : lead >= 0xe0 && lead < 0xf0 ? 2
                     : lead >= 0xf0 && lead < 0xf5 ? 3
                                                   : -1;
    if (more < 0 || i + more >= text.size() + (more == 0 ? 1 : 0)) return false;
    uint32_t point = more == 0 ? lead : lead & (0x3f >> more);
    for (int k = 1; k <= more; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xc0) != 0x80) return false;
      point = point << 6 | (next & 0x3f);
    }
    const bool overlong = (more == 2 && point < 0x800) || (more == 3 && point < 0x10000);
    if (overlong || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return false;
    i += more + 1;
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (!IsUtf8(text)) {
    return 0;
  }
  constexpr int kMaxTokens = 32;
  const patchflow::Tokenizer& tokenizer = TheTokenizer();
  const patchflow::TokenIds tokens = tokenizer.Encode(text, kMaxTokens);
  if (tokens.ids.size() != kMaxTokens || tokens.mask.size() != kMaxTokens) {
    std::abort();
  }
  for (const int64_t id : tokens.ids) {
    if (id < 0 || id >= tokenizer.vocabulary()) {
      std::abort();
    }
  }
  return 0;
}
