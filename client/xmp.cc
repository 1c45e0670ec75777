#include "client/xmp.h"

#include <algorithm>
#include <cstdint>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

namespace patchflow {
namespace {

constexpr std::string_view kOwn = "patchflow:";
constexpr std::string_view kSource = "Iptc4xmpExt:DigitalSourceType";

void AppendUtf8(uint32_t character, std::string& text) {
  const auto byte = [&text](uint32_t value) { text.push_back(static_cast<char>(value)); };
  if (character < 0x80) {
    byte(character);
  } else if (character < 0x800) {
    byte(0xC0 | character >> 6);
    byte(0x80 | (character & 0x3F));
  } else if (character < 0x10000) {
    byte(0xE0 | character >> 12);
    byte(0x80 | (character >> 6 & 0x3F));
    byte(0x80 | (character & 0x3F));
  } else {
    byte(0xF0 | character >> 18);
    byte(0x80 | (character >> 12 & 0x3F));
    byte(0x80 | (character >> 6 & 0x3F));
    byte(0x80 | (character & 0x3F));
  }
}

// Of "amp", "#13", "#xD". Nothing if it is none that XML 1.0 knows.
bool AppendReference(std::string_view name, std::string& text) {
  static const std::map<std::string_view, char> known = {
      {"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}};
  if (const auto found = known.find(name); found != known.end()) {
    text.push_back(found->second);
    return true;
  }
  uint32_t character = 0;
  const bool hexadecimal = absl::StartsWith(absl::string_view(name.data(), name.size()), "#x");
  const std::string_view digits = name.substr(name.empty() ? 0 : hexadecimal ? 2 : 1);
  const absl::string_view shown(digits.data(), digits.size());
  const bool read =
      !name.empty() && name[0] == '#' &&
      (hexadecimal ? absl::SimpleHexAtoi(shown, &character) : absl::SimpleAtoi(shown, &character));
  if (!read || character == 0 || character > 0x10FFFF) return false;
  AppendUtf8(character, text);
  return true;
}

// Element content without elements as text; nothing if it is not well-formed.
std::optional<std::string> TextOf(std::string_view content) {
  std::string text;
  while (!content.empty()) {
    const size_t end = content.find('&');
    text += content.substr(0, end);
    if (end == std::string_view::npos) break;
    const size_t semicolon = content.find(';', end);
    if (semicolon == std::string_view::npos ||
        !AppendReference(content.substr(end + 1, semicolon - end - 1), text)) {
      return std::nullopt;
    }
    content.remove_prefix(semicolon + 1);
  }
  return text;
}

// What stands between the tags of the first rdf:Description; both ends are its own.
std::string_view DescriptionOf(std::string_view packet) {
  const size_t begin = packet.find("<rdf:Description");
  const size_t inner = begin == std::string_view::npos ? begin : packet.find('>', begin);
  if (inner == std::string_view::npos || packet[inner - 1] == '/') return {};
  packet.remove_prefix(inner + 1);
  const size_t end = packet.find("</rdf:Description>");
  return end == std::string_view::npos ? std::string_view() : packet.substr(0, end);
}

}  // namespace

// Looks at each tag once, whatever they are: a packet may have millions of them.
std::map<std::string, std::string> XmpTexts(std::string_view packet) {
  std::map<std::string, std::string> texts;
  std::string_view rest = DescriptionOf(packet);
  for (int depth = 0;;) {
    const size_t begin = rest.find('<');
    const size_t end = begin == std::string_view::npos ? begin : rest.find('>', begin);
    if (end == std::string_view::npos) return texts;
    const std::string_view tag = rest.substr(begin + 1, end - begin - 1);
    rest.remove_prefix(end + 1);
    if (tag.empty() || tag[0] == '!' || tag[0] == '?' || tag.back() == '/') continue;
    if (tag[0] == '/') {
      depth = std::max(0, depth - 1);
      continue;
    }
    const bool own = tag.substr(0, kOwn.size()) == kOwn || tag == kSource;
    if (++depth > 1 || !own) continue;
    const std::string_view content = rest.substr(0, rest.find('<'));
    const std::string_view closing = rest.substr(content.size());
    if (closing.substr(0, 2) != "</" || closing.substr(2, tag.size()) != tag ||
        closing.substr(2 + tag.size(), 1) != ">") {
      continue;
    }
    if (auto text = TextOf(content)) {
      texts.emplace(tag.substr(tag.find(':') + 1), *std::move(text));
    }
  }
}

}  // namespace patchflow
