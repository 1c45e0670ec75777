#include "engine/weights/json_text.h"

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

using nlohmann::json;

// A non-finite number, and a string literal of the same length that stands in for it, so that
// positions stay true.
struct Spelling {
  std::string_view number;
  std::string_view literal;
  double value;
};
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::array<Spelling, 3> kSpellings = {{
    {"-Infinity", "\"-Infini\"", -kInfinity},
    {"Infinity", "\"Infini\"", kInfinity},
    {"NaN", "\"N\"", std::numeric_limits<double>::quiet_NaN()},
}};

bool IsWordByte(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         c == '.' || c == '+' || c == '-';
}

struct Substitution {
  std::string text;                                // Empty if nothing had to be substituted.
  std::vector<std::pair<size_t, double>> numbers;  // Ordinal among the string literals, and value.
  int depth = 0;
};

// Offset just behind the string literal that begins at `at`.
size_t EndOfString(std::string_view text, size_t at) {
  for (size_t i = at + 1; i < text.size(); ++i) {
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      return i + 1;
    }
  }
  return text.size();
}

Substitution Substitute(std::string_view text) {
  Substitution out;
  size_t literals = 0;
  int depth = 0;
  for (size_t i = 0; i < text.size();) {
    if (text[i] == '"') {
      i = EndOfString(text, i);
      ++literals;
    } else if (IsWordByte(text[i])) {
      size_t end = i;
      while (end < text.size() && IsWordByte(text[end])) ++end;
      for (const Spelling& s : kSpellings) {
        if (text.substr(i, end - i) != s.number) continue;
        if (out.text.empty()) out.text = text;
        out.text.replace(i, s.literal.size(), s.literal);
        out.numbers.emplace_back(literals++, s.value);
      }
      i = end;
    } else {
      if (text[i] == '[' || text[i] == '{') out.depth = std::max(out.depth, ++depth);
      if (text[i] == ']' || text[i] == '}') --depth;
      ++i;
    }
  }
  return out;
}

// Puts the numbers back and watches the keys while the parser builds the value.
class Builder {
 public:
  Builder(const std::vector<std::pair<size_t, double>>& numbers, bool unique_keys)
      : next_(numbers.begin()), end_(numbers.end()), unique_keys_(unique_keys) {}

  bool operator()(json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) keys_.emplace_back();
    if (event == json::parse_event_t::object_end) keys_.pop_back();
    const bool key = event == json::parse_event_t::key;
    if (key && unique_keys_ && !keys_.back().insert(parsed.get<std::string>()).second) {
      duplicate_ = parsed.get<std::string>();
    }
    const bool literal = key || (event == json::parse_event_t::value && parsed.is_string());
    const size_t ordinal = literal ? literals_++ : 0;
    if (literal && next_ != end_ && next_->first == ordinal) {
      number_as_key_ |= key;
      parsed = (next_++)->second;
    }
    return true;
  }

  const std::optional<std::string>& duplicate() const { return duplicate_; }
  bool number_as_key() const { return number_as_key_; }

 private:
  std::vector<std::pair<size_t, double>>::const_iterator next_, end_;
  bool unique_keys_;
  size_t literals_ = 0;
  std::vector<std::set<std::string>> keys_;
  std::optional<std::string> duplicate_;
  bool number_as_key_ = false;
};

// The library's "[json.exception.parse_error.101] parse error at line 1, column 2: why; last read:
// text" without its first part, and without the text, which may be anything.
std::string Why(const json::exception& e) {
  std::string what = e.what();
  if (const size_t colon = what.find(": "); colon != std::string::npos) what.erase(0, colon + 2);
  if (const size_t last = what.find("; last read"); last != std::string::npos) what.erase(last);
  return what;
}

}  // namespace

std::string Abbreviated(const json& value) {
  constexpr size_t kMaxLength = 60;
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() <= kMaxLength) return text;
  text.resize(kMaxLength);
  return text.append("...");
}

absl::StatusOr<json> ParseJson(std::string_view text, const std::string& source,
                               const JsonRules& rules) {
  Substitution in = Substitute(text);
  if (!rules.nonfinite && !in.numbers.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": NaN or Infinity is not allowed"));
  }
  if (in.depth > rules.max_depth) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": nested ", in.depth, " deep, the limit is ", rules.max_depth));
  }
  Builder builder(in.numbers, rules.unique_keys);
  json value;
  try {
    value = json::parse(
        in.text.empty() ? text : in.text,
        [&](int, json::parse_event_t event, json& parsed) { return builder(event, parsed); });
  } catch (const json::parse_error& e) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": not JSON at byte ", e.byte, " of ", text.size(), ": ", Why(e)));
  } catch (const json::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": not JSON: ", Why(e)));
  }
  if (builder.number_as_key()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": a number stands for a key"));
  }
  if (builder.duplicate()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": the key \"", *builder.duplicate(), "\" stands twice"));
  }
  return value;
}

}  // namespace patchflow
