// Tokens that stand beside a SentencePiece model, such as </s> and <extra_id_0>, and are found in a
// text before it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace patchflow {

struct AddedToken {
  std::string content;
  int64_t id = 0;
  bool strip_left = false;   // Takes the white space before it along.
  bool strip_right = false;  // And after it.
  bool single_word = false;  // Is one only between spaces.
};

// Immutable, thread-safe.
class AddedTokens {
 public:
  // Of tokens with the same content the last holds. Empty content is left out.
  explicit AddedTokens(std::vector<AddedToken> tokens);

  const AddedToken* Find(const std::string& content) const;

  // A text in pieces that are either an added token or contain none: leftmost first, then longest.
  // White space that tokens take along is gone. After transformers' PreTrainedTokenizer.tokenize.
  struct Run {
    std::string text;
    const AddedToken* token;  // nullptr for text.
  };
  std::vector<Run> Split(std::string_view text) const;

 private:
  std::vector<std::string> Cut(std::string_view text) const;
  const AddedToken* LongestAt(std::string_view text) const;

  std::map<std::string, AddedToken, std::less<>> tokens_;
  std::map<char, std::vector<const AddedToken*>> by_first_byte_;  // Longest first.
};

}  // namespace patchflow
