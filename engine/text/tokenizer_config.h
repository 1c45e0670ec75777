// What the JSON files beside a spiece.model say.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/added_tokens.h"
#include "engine/text/sentencepiece_model.h"

namespace patchflow {

struct SpecialToken {
  AddedToken token;  // The id is not known here.
  bool plain =
      false;  // Given as a string: one that is known by its content already is not changed by this.
};

struct TokenizerConfig {
  bool legacy = true;  // The model's own dummy prefix, also behind a special token.
  bool add_prefix_space = true;
  std::string eos;
  std::string unk;
  std::string pad;
  std::vector<SpecialToken> special;  // In transformers' order, those three among them.
  int64_t extra_ids = 0;              // Room for this many <extra_id_N> behind the model's pieces,
  int64_t known_extra_ids = 0;        // and how many of them are tokens.
  std::vector<AddedToken> added;      // With their ids.
};

// From tokenizer_config.json, and, where it has no added_tokens_decoder, special_tokens_map.json,
// added_tokens.json and tokenizer.json. All may be absent. INVALID_ARGUMENT for another class and
// for options that change the ids otherwise.
absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(const std::filesystem::path& tokenizer_dir);

// Every added token with its id: those that the model has no piece for follow its pieces.
std::vector<AddedToken> WithIds(const TokenizerConfig& config, const SentencePieceModel& model);

}  // namespace patchflow
