// SentencePiece with T5's rules.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace patchflow {

// Token ids padded to max_tokens, and 1 for real tokens in `mask`. The last real token is </s>, also after truncation.
struct TokenIds {
  std::vector<int64_t> ids;
  std::vector<int64_t> mask;
};

// Thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // As transformers' T5Tokenizer(padding="max_length", truncation=True) after PixArt's text preprocessing (lower case,
  // stripped). `text` is valid UTF-8.
  virtual TokenIds Encode(std::string_view text, int max_tokens) const = 0;
};

// <model>/tokenizer with spiece.model, tokenizer_config.json, special_tokens_map.json, added_tokens.json.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::filesystem::path& tokenizer_dir);

}  // namespace patchflow
