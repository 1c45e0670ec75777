#include "engine/text/tokenizer_config.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/weights/json_file.h"

namespace patchflow {
namespace {

using nlohmann::json;

constexpr int64_t kMaxId = int64_t{1} << 30;
constexpr JsonFields::Range kExtraIds{0, 10'000};

struct SpecialName {
  std::string_view field;
  std::string_view fallback;
  std::string TokenizerConfig::*content;
};
constexpr std::array<SpecialName, 7> kSpecialNames = {{
    {"bos_token", "", nullptr},
    {"eos_token", "</s>", &TokenizerConfig::eos},
    {"unk_token", "<unk>", &TokenizerConfig::unk},
    {"sep_token", "", nullptr},
    {"pad_token", "<pad>", &TokenizerConfig::pad},
    {"cls_token", "", nullptr},
    {"mask_token", "", nullptr},
}};

bool Flag(const json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_boolean() && found->get<bool>();
}

// "content" or {"content": ..., "lstrip": ..., ...}.
std::optional<SpecialToken> TokenOf(const json& value) {
  if (value.is_string()) return SpecialToken{{.content = value.get<std::string>()}, true};
  if (!value.is_object() || !value.contains("content") || !value["content"].is_string()) {
    return std::nullopt;
  }
  return SpecialToken{{.content = value["content"].get<std::string>(),
                       .strip_left = Flag(value, "lstrip"),
                       .strip_right = Flag(value, "rstrip"),
                       .single_word = Flag(value, "single_word")}};
}

std::optional<int64_t> IdOf(const json& value) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{kMaxId}) return std::nullopt;
  return value.get<int64_t>();
}

std::optional<int64_t> IdOf(const std::string& text) {
  int64_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc() || end != text.data() + text.size() || id < 0 || id > kMaxId) {
    return std::nullopt;
  }
  return id;
}

void AddUnlessThere(std::vector<SpecialToken>& tokens, SpecialToken added) {
  const bool there = std::any_of(tokens.begin(), tokens.end(), [&](const SpecialToken& t) {
    return t.token.content == added.token.content;
  });
  if (!there) tokens.push_back(std::move(added));
}

// The special tokens as one file has them.
struct Specials {
  std::array<std::optional<SpecialToken>, kSpecialNames.size()> named;
  std::optional<std::vector<SpecialToken>> additional;
};

Specials ReadSpecials(JsonFields& fields) {
  Specials out;
  for (size_t i = 0; i < kSpecialNames.size(); ++i) {
    const json* value = fields.Find(kSpecialNames[i].field);
    if (value == nullptr) continue;
    out.named[i] = TokenOf(*value);
    if (!out.named[i]) fields.Refuse(kSpecialNames[i].field, "not a token");
  }
  constexpr std::string_view kAdditional = "additional_special_tokens";
  if (const json* list = fields.Find(kAdditional); list != nullptr) {
    out.additional.emplace();
    for (const json& value : *list) {
      if (std::optional<SpecialToken> token = TokenOf(value); token && list->is_array()) {
        out.additional->push_back(*std::move(token));
      } else {
        fields.Refuse(kAdditional, "not a list of tokens");
        break;
      }
    }
  }
  return out;
}

void Override(Specials& specials, Specials with) {
  for (size_t i = 0; i < with.named.size(); ++i) {
    if (with.named[i]) specials.named[i] = std::move(with.named[i]);
  }
  if (!with.additional) return;
  if (!specials.additional) specials.additional.emplace();
  for (SpecialToken& token : *with.additional) {
    AddUnlessThere(*specials.additional, std::move(token));
  }
}

// {"32000": {"content": "<extra_id_99>", ...}, ...}
void ReadAddedTokensDecoder(JsonFields& fields, TokenizerConfig& config) {
  const json& decoder = *fields.Find("added_tokens_decoder");
  if (!decoder.is_object()) return fields.Refuse("added_tokens_decoder", "not an object");
  for (const auto& [key, value] : decoder.items()) {
    const std::optional<int64_t> id = IdOf(key);
    std::optional<SpecialToken> token = TokenOf(value);
    if (!id || !token || token->plain) {
      fields.Fail(absl::StrCat("added_tokens_decoder.", key, " is ", Abbreviated(value),
                               ", not a token under its id"));
      continue;
    }
    token->token.id = *id;
    config.added.push_back(std::move(token->token));
  }
}

// {"<extra_id_99>": 32000, ...}
absl::Status ReadAddedTokensFile(const std::filesystem::path& file, TokenizerConfig& config) {
  absl::StatusOr<json> content = ReadJsonFile(file);
  if (absl::IsNotFound(content.status())) return absl::OkStatus();
  if (!content.ok()) return content.status();
  for (const auto& [token, value] : content->items()) {
    const std::optional<int64_t> id = IdOf(value);
    if (!content->is_object() || !id) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.string(), ": ", token, " is ", Abbreviated(value), ", not an id"));
    }
    config.added.push_back({.content = token, .id = *id});
  }
  return absl::OkStatus();
}

// {"added_tokens": [{"id": 0, "content": "<pad>", ...}, ...], ...}
absl::Status ReadTokenizerFile(const std::filesystem::path& file, TokenizerConfig& config) {
  absl::StatusOr<json> content = ReadJsonFile(file);
  if (absl::IsNotFound(content.status())) return absl::OkStatus();
  if (!content.ok()) return content.status();
  if (!content->is_object() || !content->contains("added_tokens")) return absl::OkStatus();
  for (const json& value : (*content)["added_tokens"]) {
    std::optional<SpecialToken> token = TokenOf(value);
    const std::optional<int64_t> id =
        value.is_object() && value.contains("id") ? IdOf(value["id"]) : std::nullopt;
    if (!token || token->plain || !id) {
      return absl::InvalidArgumentError(absl::StrCat(
          file.string(), ": added_tokens holds ", Abbreviated(value), ", not a token and its id"));
    }
    token->token.id = *id;
    config.added.push_back(std::move(token->token));
  }
  return absl::OkStatus();
}

bool IsExtraId(const SpecialToken& token) {
  return token.token.content.find("<extra_id_") != std::string::npos;
}

// T5Tokenizer's own rule for additional_special_tokens and extra_ids.
void AddExtraIds(JsonFields& fields, Specials& specials, TokenizerConfig& config) {
  config.extra_ids = fields.IntOr("extra_ids", 100, kExtraIds);
  const bool given = specials.additional.has_value();
  if (!given) specials.additional.emplace();
  auto& additional = *specials.additional;
  config.known_extra_ids = std::count_if(additional.begin(), additional.end(), IsExtraId);
  if (config.known_extra_ids == 0) {
    for (int64_t i = 0; i < config.extra_ids; ++i) {
      additional.push_back({{.content = absl::StrCat("<extra_id_", i, ">")}, true});
    }
    if (!given) config.known_extra_ids = config.extra_ids;
  } else if (config.extra_ids > 0 && config.extra_ids != config.known_extra_ids) {
    fields.Fail(absl::StrCat("extra_ids is ", config.extra_ids, ", but ", config.known_extra_ids,
                             " additional_special_tokens are <extra_id_N>"));
  }
}

void CollectSpecials(Specials specials, TokenizerConfig& config) {
  for (size_t i = 0; i < kSpecialNames.size(); ++i) {
    const SpecialName& name = kSpecialNames[i];
    std::optional<SpecialToken> token = std::move(specials.named[i]);
    if (!token && !name.fallback.empty())
      token = SpecialToken{{.content = std::string(name.fallback)}};
    if (!token) continue;
    if (name.content != nullptr) {
      config.*name.content = token->token.content;
      token->plain = false;
    }
    const auto known =
        std::find_if(config.added.begin(), config.added.end(),
                     [&](const AddedToken& a) { return a.content == token->token.content; });
    if (known != config.added.end()) token->token = *known;
    AddUnlessThere(config.special, *std::move(token));
  }
  for (SpecialToken& token : *specials.additional) AddUnlessThere(config.special, std::move(token));
}

}  // namespace

absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(const std::filesystem::path& tokenizer_dir) {
  absl::StatusOr<JsonFields> fields =
      JsonFields::ReadIfPresent(tokenizer_dir / "tokenizer_config.json");
  if (!fields.ok()) return fields.status();
  absl::StatusOr<JsonFields> map =
      JsonFields::ReadIfPresent(tokenizer_dir / "special_tokens_map.json");
  if (!map.ok()) return map.status();

  const std::string kind = fields->StringOr("tokenizer_class", "T5Tokenizer");
  if (kind != "T5Tokenizer" && kind != "T5TokenizerFast") {
    fields->Refuse("tokenizer_class", "which is not T5Tokenizer");
  }
  fields->Expect("padding_side", "right");
  fields->Expect("truncation_side", "right");
  fields->Expect("split_special_tokens", false);
  fields->Expect("sp_model_kwargs", json::object());
  TokenizerConfig config;
  config.legacy = fields->BoolOr("legacy", true);
  config.add_prefix_space = fields->BoolOr("add_prefix_space", true);

  Specials specials = ReadSpecials(*fields);
  if (fields->Has("added_tokens_decoder")) {
    ReadAddedTokensDecoder(*fields, config);
  } else {
    Override(specials, ReadSpecials(*map));
    for (const absl::Status& status :
         {ReadAddedTokensFile(tokenizer_dir / "added_tokens.json", config),
          ReadTokenizerFile(tokenizer_dir / "tokenizer.json", config)}) {
      if (!status.ok()) return status;
    }
  }
  AddExtraIds(*fields, specials, config);
  CollectSpecials(std::move(specials), config);
  for (const JsonFields* file : {&*fields, &*map}) {
    if (absl::Status status = file->Finish(); !status.ok()) return status;
  }
  return config;
}

std::vector<AddedToken> WithIds(const TokenizerConfig& config, const SentencePieceModel& model) {
  std::map<int64_t, AddedToken> by_id;
  for (int64_t i = 0; i < config.known_extra_ids; ++i) {
    const int64_t id = model.size() - 1 + config.extra_ids - i;
    by_id[id] = {absl::StrCat("<extra_id_", i, ">"), id, true, true, false};
  }
  for (const AddedToken& token : config.added) by_id[token.id] = token;

  std::map<std::string, int64_t> vocabulary;
  std::set<std::string> known;
  for (int64_t id = 0; id < model.size(); ++id) {
    const auto added = by_id.find(id);
    vocabulary[added == by_id.end() ? model.PieceOf(id) : added->second.content] = id;
  }
  for (const auto& [id, token] : by_id) {
    vocabulary[token.content] = id;
    known.insert(token.content);
  }
  auto next = static_cast<int64_t>(vocabulary.size());
  for (const SpecialToken& special : config.special) {
    AddedToken token = special.token;
    if (token.content.empty() || (special.plain && known.contains(token.content))) continue;
    const auto [found, is_new] = vocabulary.try_emplace(token.content, next);
    next += is_new ? 1 : 0;
    token.id = found->second;
    by_id[token.id] = token;
  }
  std::vector<AddedToken> out;
  for (auto& [id, token] : by_id) out.push_back(std::move(token));
  return out;
}

}  // namespace patchflow
