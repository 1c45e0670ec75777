#include "engine/text/tokenizer.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/added_tokens.h"
#include "engine/text/python_text.h"
#include "engine/text/sentencepiece_model.h"
#include "engine/text/tokenizer_config.h"

namespace patchflow {
namespace {

constexpr std::string_view kSpaceMark = "\u2581";

std::string WithPlainSpaces(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (true) {
    const size_t mark = text.find(kSpaceMark);
    out.append(text.substr(0, mark));
    if (mark == std::string_view::npos) return out;
    out += ' ';
    text.remove_prefix(mark + kSpaceMark.size());
  }
}

// After transformers' T5Tokenizer, method by method.
class T5Tokenizer final : public Tokenizer {
 public:
  T5Tokenizer(TokenizerConfig config, std::unique_ptr<SentencePieceModel> model,
              std::vector<AddedToken> added)
      : config_(std::move(config)), model_(std::move(model)), added_(added) {
    for (const SpecialToken& special : config_.special) special_.insert(special.token.content);
    unk_length_ = model_->Encode(config_.unk).size();
    eos_id_ = IdOf(config_.eos);
    pad_id_ = IdOf(config_.pad);
    vocabulary_ = model_->size();
    for (const AddedToken& token : added) {
      vocabulary_ = std::max(vocabulary_, token.id + 1);
    }
  }

  int64_t vocabulary() const override { return vocabulary_; }

  TokenIds Encode(std::string_view text, int max_tokens) const override {
    const std::string lower = PythonLower(text);
    TokenIds out;
    for (const std::string& token : Tokens(PythonStrip(lower))) out.ids.push_back(IdOf(token));
    const size_t limit = static_cast<size_t>(std::max(max_tokens, 1));
    if (out.ids.size() > limit - 1) out.ids.resize(limit - 1);
    if (out.ids.empty() || out.ids.back() != eos_id_) out.ids.push_back(eos_id_);
    out.mask.assign(out.ids.size(), 1);
    out.ids.resize(limit, pad_id_);
    out.mask.resize(limit, 0);
    return out;
  }

 private:
  int64_t IdOf(const std::string& token) const {
    const AddedToken* added = added_.Find(token);
    return added != nullptr ? added->id : model_->IdOf(token);
  }

  std::vector<std::string> Tokens(std::string_view text) const {
    if (config_.legacy || text.empty()) return SplitAndEncode(text);
    const std::string plain = WithPlainSpaces(text);
    std::vector<std::string> tokens =
        SplitAndEncode(config_.add_prefix_space ? absl::StrCat("\u2581", plain) : plain);
    if (tokens.size() > 1 && tokens[0] == kSpaceMark && special_.contains(tokens[1])) {
      tokens.erase(tokens.begin());
    }
    return tokens;
  }

  std::vector<std::string> SplitAndEncode(std::string_view text) const {
    std::vector<std::string> tokens;
    for (AddedTokens::Run& run : added_.Split(text)) {
      if (run.token != nullptr) {
        tokens.push_back(std::move(run.text));
        continue;
      }
      for (std::string& piece : Pieces(run.text)) tokens.push_back(std::move(piece));
    }
    return tokens;
  }

  // Without a dummy prefix the model strips leading spaces, unless something stands before them.
  std::vector<std::string> Pieces(const std::string& text) const {
    if (config_.legacy || !(text.starts_with(kSpaceMark) || text.starts_with(' '))) {
      return model_->Encode(text);
    }
    std::vector<std::string> pieces = model_->Encode(config_.unk + text);
    const auto prefix = static_cast<std::ptrdiff_t>(std::min(unk_length_, pieces.size()));
    if (pieces.size() >= unk_length_) pieces.erase(pieces.begin(), pieces.begin() + prefix);
    return pieces;
  }

  TokenizerConfig config_;
  std::unique_ptr<SentencePieceModel> model_;
  AddedTokens added_;
  std::set<std::string> special_;
  size_t unk_length_ = 0;
  int64_t eos_id_ = 0;
  int64_t pad_id_ = 0;
  int64_t vocabulary_ = 0;
};

absl::StatusOr<std::string> ReadModelFile(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::exists(file, error)) {
    return absl::NotFoundError(absl::StrCat(file.string(), ": no such file"));
  }
  constexpr uintmax_t kMaxBytes = uintmax_t{256} << 20;
  const uintmax_t bytes = std::filesystem::file_size(file, error);
  if (error) return absl::InvalidArgumentError(absl::StrCat(file.string(), ": ", error.message()));
  if (bytes > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.string(), ": ", bytes, " bytes, the limit is ", kMaxBytes));
  }
  std::ifstream in(file, std::ios::binary);
  std::string content(bytes, '\0');
  if (!in.read(content.data(), static_cast<std::streamsize>(bytes))) {
    return absl::InvalidArgumentError(absl::StrCat(file.string(), ": cannot be read"));
  }
  return content;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(
    const std::filesystem::path& tokenizer_dir) {
  absl::StatusOr<TokenizerConfig> config = ReadTokenizerConfig(tokenizer_dir);
  if (!config.ok()) return config.status();
  const std::filesystem::path file = tokenizer_dir / "spiece.model";
  absl::StatusOr<std::string> serialized = ReadModelFile(file);
  if (!serialized.ok()) return serialized.status();
  std::string error;
  std::unique_ptr<SentencePieceModel> model = SentencePieceModel::Parse(
      *std::move(serialized), config->legacy ? DummyPrefix::kAsTrained : DummyPrefix::kNone, error);
  if (model == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(file.string(), ": ", error));
  }
  std::vector<AddedToken> added = WithIds(*config, *model);
  return std::make_unique<T5Tokenizer>(*std::move(config), std::move(model), std::move(added));
}

}  // namespace patchflow
