// SentencePiece with T5's rules.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace patchflow {

// Token ids padded to max_tokens, and 1 for real tokens in `mask`. The last real token is </s>,
// also after truncation.
struct TokenIds {
  std::vector<int64_t> ids;
  std::vector<int64_t> mask;
};

// Thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // One more than the largest id, so that an encoder with a smaller vocabulary can be refused.
  virtual int64_t vocabulary() const = 0;
  // As transformers' T5Tokenizer(padding="max_length", truncation=True) after PixArt's text
  // preprocessing (lower case, stripped). `text` is valid UTF-8. Takes time with its length, and
  // with the square of a run of letters that the model does not know (0.1 s for 64 KiB of them).
  // max_tokens below 2 leaves </s> alone.
  virtual TokenIds Encode(std::string_view text, int max_tokens) const = 0;
};

// <model>/tokenizer with spiece.model, tokenizer_config.json, special_tokens_map.json,
// added_tokens.json. NOT_FOUND without a spiece.model; INVALID_ARGUMENT, naming the file, for a
// damaged one or a config of another tokenizer.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(
    const std::filesystem::path& tokenizer_dir);

}  // namespace patchflow
