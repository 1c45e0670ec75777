#include "engine/text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "engine/text/python_text.h"

namespace patchflow {

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) {
  for (AddedToken& token : tokens) {
    std::string content = token.content;
    if (!content.empty()) tokens_.insert_or_assign(std::move(content), std::move(token));
  }
  for (const auto& [content, token] : tokens_) by_first_byte_[content[0]].push_back(&token);
  for (auto& [first, those] : by_first_byte_) {
    std::stable_sort(those.begin(), those.end(), [](const AddedToken* a, const AddedToken* b) {
      return a->content.size() > b->content.size();
    });
  }
}

const AddedToken* AddedTokens::Find(const std::string& content) const {
  const auto found = tokens_.find(content);
  return found == tokens_.end() ? nullptr : &found->second;
}

const AddedToken* AddedTokens::LongestAt(std::string_view text) const {
  const auto candidates = by_first_byte_.find(text[0]);
  if (candidates == by_first_byte_.end()) return nullptr;
  for (const AddedToken* token : candidates->second) {
    if (text.starts_with(token->content)) return token;
  }
  return nullptr;
}

std::vector<std::string> AddedTokens::Cut(std::string_view text) const {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const AddedToken* token = LongestAt(text.substr(at));
    if (token == nullptr) {
      ++at;
      continue;
    }
    if (at > begin) parts.emplace_back(text.substr(begin, at - begin));
    parts.push_back(token->content);
    at += token->content.size();
    begin = at;
  }
  if (begin < text.size()) parts.emplace_back(text.substr(begin));
  return parts;
}

std::vector<AddedTokens::Run> AddedTokens::Split(std::string_view text) const {
  std::vector<std::string> parts = Cut(text);
  for (size_t i = 0; i < parts.size(); ++i) {
    const AddedToken* token = Find(parts[i]);
    if (token == nullptr) continue;
    const std::string left = i > 0 ? parts[i - 1] : "";
    const std::string right = i + 1 < parts.size() ? parts[i + 1] : "";
    if (token->strip_right && !right.empty()) parts[i + 1] = PythonStripLeft(right);
    if (token->strip_left && !left.empty()) parts[i - 1] = PythonStripRight(left);
    if (token->single_word && !left.empty() && left.back() != ' ') {
      parts[i - 1] += std::exchange(parts[i], "");
    } else if (token->single_word && !right.empty() && right.front() != ' ') {
      parts[i + 1].insert(0, std::exchange(parts[i], ""));
    }
  }
  std::vector<Run> runs;
  for (std::string& part : parts) {
    if (part.empty()) continue;
    const AddedToken* token = Find(part);
    runs.push_back({std::move(part), token});
  }
  return runs;
}

}  // namespace patchflow
