#include "server/config_reader.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace patchflow {
namespace {

std::string Show(const std::string& value) {
  return absl::StrCat("'", value.size() <= 60 ? value : value.substr(0, 60) + "...", "'");
}

const char* TypeName(const YAML::Node& node) {
  switch (node.Type()) {
    case YAML::NodeType::Sequence:
      return "a sequence";
    case YAML::NodeType::Map:
      return "a mapping";
    case YAML::NodeType::Null:
      return "nothing";
    default:
      return "a scalar";
  }
}

// Text in quotes is a string, whatever it spells.
bool Quoted(const YAML::Node& node) { return node.Tag() == "!"; }

size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) {
    row[j] = j;
  }
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

}  // namespace

void ConfigErrors::Add(const YAML::Mark& mark, const std::string& key, const std::string& text) {
  const std::string line = mark.is_null() ? "" : absl::StrCat(mark.line + 1, ":");
  lines_.push_back(absl::StrCat(file_, ":", line, " ", key.empty() ? "" : key + ": ", text));
}

std::string ConfigErrors::Text() const { return absl::StrJoin(lines_, "\n"); }

MapReader::MapReader(const YAML::Node& node, std::string path, ConfigErrors& errors)
    : node_(node.IsDefined() && node.IsMap() ? node : YAML::Node(YAML::NodeType::Map)),
      path_(std::move(path)),
      errors_(&errors) {
  if (node.IsDefined() && !node.IsNull() && !node.IsMap()) {
    errors_->Add(node.Mark(), path_, absl::StrCat("a mapping is needed, not ", TypeName(node)));
  }
}

std::string MapReader::Path(const std::string& key) const {
  return path_.empty() ? key : absl::StrCat(path_, ".", key);
}

YAML::Node MapReader::Find(const std::string& key) {
  known_.insert(key);
  const YAML::Node& node = node_;
  return node[key];
}

bool MapReader::Has(const std::string& key) const {
  const YAML::Node& node = node_;
  return node[key].IsDefined();
}

void MapReader::Fault(const std::string& key, const std::string& text) {
  const YAML::Node& node = node_;
  const YAML::Node value = Has(key) ? node[key] : node;
  errors_->Add(value.IsDefined() ? value.Mark() : YAML::Mark::null_mark(), Path(key), text);
}

std::string MapReader::Scalar(const std::string& key, const YAML::Node& value, const char* expected,
                              bool* ok) {
  *ok = value.IsScalar();
  if (!*ok) {
    errors_->Add(value.Mark(), Path(key),
                 absl::StrCat(expected, " is needed, not ", TypeName(value)));
    return "";
  }
  return value.Scalar();
}

std::string MapReader::String(const std::string& key, const std::string& absent) {
  const YAML::Node value = Find(key);
  if (!value.IsDefined()) {
    return absent;
  }
  bool ok = false;
  std::string text = Scalar(key, value, "a string", &ok);
  return ok ? text : absent;
}

std::string MapReader::RequiredString(const std::string& key) {
  if (!Has(key)) {
    Fault(key, "is required");
    known_.insert(key);
    return "";
  }
  std::string text = String(key, "");
  if (text.empty() && Find(key).IsScalar()) {
    Fault(key, "must not be empty");
  }
  return text;
}

std::string MapReader::OneOf(const std::string& key, const std::string& absent,
                             const std::vector<std::string>& choices) {
  std::string text = String(key, absent);
  if (text != absent && std::find(choices.begin(), choices.end(), text) == choices.end()) {
    Fault(key, absl::StrCat(Show(text), " is none of ", absl::StrJoin(choices, ", ")));
    return absent;
  }
  return text;
}

int64_t MapReader::Integer(const std::string& key, int64_t absent, int64_t min, int64_t max) {
  const YAML::Node value = Find(key);
  if (!value.IsDefined()) {
    return absent;
  }
  bool ok = false;
  const std::string text = Scalar(key, value, "a whole number", &ok);
  if (!ok) {
    return absent;
  }
  int64_t number = 0;
  if (Quoted(value) || !absl::SimpleAtoi(text, &number)) {
    Fault(key, absl::StrCat("a whole number is needed, not ", Show(text)));
    return absent;
  }
  if (number < min || number > max) {
    Fault(key, absl::StrCat(number, " is out of range: ", min, " to ", max));
    return absent;
  }
  return number;
}

double MapReader::Number(const std::string& key, double absent, double min, double max) {
  const YAML::Node value = Find(key);
  if (!value.IsDefined()) {
    return absent;
  }
  bool ok = false;
  const std::string text = Scalar(key, value, "a number", &ok);
  if (!ok) {
    return absent;
  }
  double number = 0;
  if (Quoted(value) || !absl::SimpleAtod(text, &number) || !std::isfinite(number)) {
    Fault(key, absl::StrCat("a number is needed, not ", Show(text)));
    return absent;
  }
  if (number < min || number > max) {
    Fault(key, absl::StrCat(number, " is out of range: ", min, " to ", max));
    return absent;
  }
  return number;
}

bool MapReader::Boolean(const std::string& key, bool absent) {
  const YAML::Node value = Find(key);
  if (!value.IsDefined()) {
    return absent;
  }
  bool ok = false;
  const std::string text = Scalar(key, value, "true or false", &ok);
  if (!ok) {
    return absent;
  }
  if (Quoted(value) || (text != "true" && text != "false")) {
    Fault(key, absl::StrCat("true or false is needed, not ", Show(text)));
    return absent;
  }
  return text == "true";
}

absl::Duration MapReader::Duration(const std::string& key, absl::Duration absent,
                                   absl::Duration min, absl::Duration max) {
  const YAML::Node value = Find(key);
  if (!value.IsDefined()) {
    return absent;
  }
  bool ok = false;
  const std::string text = Scalar(key, value, "a duration such as 30s", &ok);
  if (!ok) {
    return absent;
  }
  double seconds = 0;
  absl::Duration duration;
  if (absl::SimpleAtod(text, &seconds) && std::isfinite(seconds)) {
    duration = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(text, &duration)) {
    Fault(key, absl::StrCat("a duration such as 30s is needed, not ", Show(text)));
    return absent;
  }
  if (duration < min || duration > max) {
    Fault(key, absl::StrCat(absl::FormatDuration(duration), " is out of range: ",
                            absl::FormatDuration(min), " to ", absl::FormatDuration(max)));
    return absent;
  }
  return duration;
}

std::vector<std::string> MapReader::Strings(const std::string& key) {
  const YAML::Node value = Find(key);
  std::vector<std::string> strings;
  if (!value.IsDefined()) {
    return strings;
  }
  if (!value.IsSequence()) {
    Fault(key, absl::StrCat("a sequence of strings is needed, not ", TypeName(value)));
    return strings;
  }
  for (size_t i = 0; i < value.size(); ++i) {
    bool ok = false;
    strings.push_back(Scalar(absl::StrCat(key, "[", i, "]"), value[i], "a string", &ok));
  }
  return strings;
}

MapReader MapReader::Map(const std::string& key) { return {Find(key), Path(key), *errors_}; }

std::vector<MapReader> MapReader::Maps(const std::string& key) {
  const YAML::Node value = Find(key);
  std::vector<MapReader> maps;
  if (!value.IsDefined()) {
    return maps;
  }
  if (!value.IsSequence()) {
    Fault(key, absl::StrCat("a sequence of mappings is needed, not ", TypeName(value)));
    return maps;
  }
  for (size_t i = 0; i < value.size(); ++i) {
    maps.emplace_back(value[i], absl::StrCat(Path(key), "[", i, "]"), *errors_);
  }
  return maps;
}

void MapReader::Finish() {
  std::set<std::string> seen;
  for (const auto& entry : node_) {
    const YAML::Node& name = entry.first;
    const std::string key = name.IsScalar() ? name.Scalar() : "";
    if (!name.IsScalar()) {
      errors_->Add(name.Mark(), path_, "a key must be a string");
    } else if (known_.count(key) == 0) {
      const std::string nearest = NearestWord(key, known_);
      errors_->Add(name.Mark(), Path(key),
                   nearest.empty()
                       ? absl::StrCat("unknown key; known: ", absl::StrJoin(known_, ", "))
                       : absl::StrCat("unknown key; did you mean '", nearest, "'?"));
    } else if (!seen.insert(key).second) {
      errors_->Add(name.Mark(), Path(key), "appears twice");
    }
  }
}

std::string NearestWord(const std::string& word, const std::set<std::string>& choices) {
  std::string nearest;
  size_t least = std::max<size_t>(1, std::min<size_t>(3, word.size() / 3)) + 1;
  for (const std::string& choice : choices) {
    const size_t distance = EditDistance(word.substr(0, 64), choice);
    if (distance < least) {
      least = distance;
      nearest = choice;
    }
  }
  return nearest;
}

}  // namespace patchflow
