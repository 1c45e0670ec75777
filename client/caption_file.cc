#include "client/caption_file.h"

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/text_file.h"

namespace patchflow {
namespace {

using Captions = absl::StatusOr<std::vector<std::string>>;
using nlohmann::json;

constexpr char kByteOrderMark[] = "\xEF\xBB\xBF";

absl::Status Bad(const std::string& file, const std::string& text) {
  return absl::InvalidArgumentError(absl::StrCat("--captions: ", file, text));
}

std::string Stripped(const std::string& text) {
  return std::string(absl::StripAsciiWhitespace(text));
}

// The caption that `holder` has under `key`, or an error that begins with the image's place.
absl::StatusOr<std::string> CaptionUnder(const json& holder, const char* key,
                                         const std::string& file, const std::string& place) {
  const auto found = holder.is_object() ? holder.find(key) : holder.end();
  if (found == holder.end() || !found->is_string()) {
    return Bad(file, absl::StrCat(": ", place, ": has no text \"", key, "\""));
  }
  std::string caption = Stripped(found->get<std::string>());
  if (caption.empty()) return Bad(file, absl::StrCat(": ", place, ": the caption is empty"));
  return caption;
}

Captions KarpathyCaptions(const json& images, const std::string& file) {
  std::vector<std::string> captions;
  for (size_t i = 0; i < images.size(); ++i) {
    const std::string place = absl::StrCat("images[", i, "]");
    const auto sentences = images[i].is_object() ? images[i].find("sentences") : images[i].end();
    if (sentences == images[i].end() || !sentences->is_array() || sentences->empty()) {
      return Bad(file, absl::StrCat(": ", place, ": has no \"sentences\""));
    }
    auto caption = CaptionUnder((*sentences)[0], "raw", file, place + ".sentences[0]");
    if (!caption.ok()) return caption.status();
    captions.push_back(*std::move(caption));
  }
  return captions;
}

Captions OfficialCaptions(const json& images, const json& annotations, const std::string& file) {
  std::unordered_map<int64_t, std::string> first_of;
  for (size_t i = 0; i < annotations.size(); ++i) {
    const std::string place = absl::StrCat("annotations[", i, "]");
    auto caption = CaptionUnder(annotations[i], "caption", file, place);
    if (!caption.ok()) return caption.status();
    const auto image = annotations[i].find("image_id");
    if (image == annotations[i].end() || !image->is_number_integer()) {
      return Bad(file, absl::StrCat(": ", place, ": has no number \"image_id\""));
    }
    first_of.emplace(image->get<int64_t>(), *std::move(caption));
  }
  std::vector<std::string> captions;
  for (size_t i = 0; i < images.size(); ++i) {
    const std::string place = absl::StrCat(": images[", i, "]");
    const auto id = images[i].is_object() ? images[i].find("id") : images[i].end();
    if (id == images[i].end() || !id->is_number_integer()) {
      return Bad(file, absl::StrCat(place, ": has no number \"id\""));
    }
    const auto caption = first_of.find(id->get<int64_t>());
    if (caption == first_of.end()) {
      return Bad(file, absl::StrCat(place, ": no annotation for its id ", id->get<int64_t>()));
    }
    captions.push_back(caption->second);
  }
  return captions;
}

// Leaves out what takes most of the space in Karpathy's file.
bool IsWanted(int, json::parse_event_t event, json& parsed) {
  return event != json::parse_event_t::key || (parsed != "tokens" && parsed != "sentids");
}

Captions JsonCaptions(std::istream& input, const std::string& file) {
  json whole;
  try {
    whole = json::parse(input, IsWanted);
  } catch (const json::exception& error) {
    const std::string what = error.what();  // "[json.exception.parse_error.101] parse error at ..."
    const size_t words = what.find("] ");
    return Bad(file, ": " + (words == std::string::npos ? what : what.substr(words + 2)));
  }
  const auto list = [&](const char* key) -> const json* {
    const auto found = whole.is_object() ? whole.find(key) : whole.end();
    return found != whole.end() && found->is_array() ? &*found : nullptr;
  };
  const json* images = list("images");
  if (images == nullptr) return Bad(file, ": has no list \"images\"");
  const json* annotations = list("annotations");
  return annotations == nullptr ? KarpathyCaptions(*images, file)
                                : OfficialCaptions(*images, *annotations, file);
}

// The next row; false at the end. A field that begins with a quote ends with the quote that is not
// doubled, whatever stands between.
absl::StatusOr<bool> ReadRow(std::istream& input, std::vector<std::string>& fields, int& line) {
  fields.assign(1, "");
  bool quoted = false;
  bool any = false;
  for (int c = input.get(); c != std::istream::traits_type::eof(); c = input.get()) {
    any = true;
    if (c == '\n') ++line;
    if (quoted) {
      if (c != '"') {
        fields.back().push_back(static_cast<char>(c));
      } else if (input.peek() == '"') {
        fields.back().push_back(static_cast<char>(input.get()));
      } else {
        quoted = false;
      }
    } else if (c == '"' && fields.back().empty()) {
      quoted = true;
    } else if (c == '\t') {
      fields.emplace_back();
    } else if (c == '\n') {
      return true;
    } else {
      fields.back().push_back(static_cast<char>(c));
    }
  }
  if (quoted) return absl::InvalidArgumentError("a quote is not closed");
  return any;
}

Captions TsvCaptions(std::istream& input, const std::string& file) {
  std::vector<std::string> captions;
  std::vector<std::string> fields;
  size_t column = std::string::npos;
  for (int line = 1, first = 1;; first = line) {
    const auto row = ReadRow(input, fields, line);
    const std::string place = absl::StrCat(":", first, ": ");
    if (!row.ok()) return Bad(file, place + std::string(row.status().message()));
    if (!*row) break;
    if (fields.size() == 1 && Stripped(fields[0]).empty()) continue;
    if (column == std::string::npos) {
      for (size_t i = 0; i < fields.size() && column == std::string::npos; ++i) {
        const std::string name = Stripped(fields[i]);
        if (name == "Prompt" || name == std::string(kByteOrderMark) + "Prompt") column = i;
      }
      if (column == std::string::npos) return Bad(file, place + "has no column \"Prompt\"");
      continue;
    }
    if (column >= fields.size()) return Bad(file, place + "has no field \"Prompt\"");
    captions.push_back(Stripped(fields[column]));
    if (captions.back().empty()) return Bad(file, place + "the caption is empty");
    if (absl::Status status = CheckUtf8("", captions.back()); !status.ok()) {
      return Bad(file, place + "is not UTF-8");
    }
  }
  return captions;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ReadCaptions(const std::string& file) {
  const bool is_json = absl::EndsWithIgnoreCase(file, ".json");
  if (!is_json && !absl::EndsWithIgnoreCase(file, ".tsv")) return ReadLines("--captions", file);
  std::ifstream input(file, std::ios::binary);
  if (!input || input.peek() == std::istream::traits_type::eof()) {
    return Bad(file, input.eof() ? ": is empty" : ": can't be read");
  }
  Captions captions = is_json ? JsonCaptions(input, file) : TsvCaptions(input, file);
  if (captions.ok() && captions->empty()) return Bad(file, " has no captions");
  return captions;
}

}  // namespace patchflow
