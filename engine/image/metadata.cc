#include "engine/image/metadata.h"

#include <cstddef>
#include <cstdint>
#include <set>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

constexpr size_t kMaxKeyBytes = 79;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

bool IsKey(std::string_view key) {
  if (key.empty() || key.size() > kMaxKeyBytes) return false;
  if (!absl::ascii_isalpha(key[0]) && key[0] != '_') return false;
  for (char c : key) {
    if (!absl::ascii_isalnum(c) && c != '_' && c != '.' && c != '-') return false;
  }
  return true;
}

// Bytes of the well-formed UTF-8 sequence at the start of `text`, 0 if there is none (Unicode,
// table 3-7).
size_t SequenceBytes(std::string_view text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0};
  };
  const auto follows = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xC2) return 0;
  if (lead < 0xE0) return follows(1) ? 2 : 0;
  if (lead < 0xF0) {
    const bool overlong = lead == 0xE0 && byte(1) < 0xA0;
    const bool surrogate = lead == 0xED && byte(1) > 0x9F;
    return follows(1) && follows(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (lead < 0xF5) {
    const bool overlong = lead == 0xF0 && byte(1) < 0x90;
    const bool too_large = lead == 0xF4 && byte(1) > 0x8F;
    return follows(1) && follows(2) && follows(3) && !overlong && !too_large ? 4 : 0;
  }
  return 0;
}

// Element content for one character.
std::string_view XmlOf(std::string_view character) {
  if (character == "\xEF\xBF\xBE" || character == "\xEF\xBF\xBF") return kReplacement;
  switch (character[0]) {
    case '&':
      return "&amp;";
    case '<':
      return "&lt;";
    case '>':
      return "&gt;";
    case '\r':
      return "&#13;";
    case '\t':
    case '\n':
    case '\x7F':
      return character;
    default:
      return absl::ascii_iscntrl(character[0]) ? kReplacement : character;
  }
}

}  // namespace

absl::Status CheckMetadata(const Metadata& metadata) {
  std::set<std::string_view> keys;
  for (const auto& [key, value] : metadata) {
    if (!IsKey(key)) {
      return absl::InvalidArgumentError(
          absl::StrCat("metadata: key \"", absl::Utf8SafeCHexEscape(key.substr(0, kMaxKeyBytes)),
                       "\" of ", key.size(), " bytes is not 1 to ", kMaxKeyBytes,
                       " of [A-Za-z0-9_.-] beginning with a letter or '_'"));
    }
    if (!keys.insert(key).second) {
      return absl::InvalidArgumentError(absl::StrCat("metadata: key \"", key, "\" comes twice"));
    }
    for (size_t i = 0; i < value.size();) {
      const size_t bytes = SequenceBytes(std::string_view(value).substr(i));
      if (bytes == 0 || value[i] == '\0') {
        return absl::InvalidArgumentError(absl::StrCat("metadata: the value of \"", key, "\" has ",
                                                       bytes == 0 ? "invalid UTF-8" : "a NUL",
                                                       " at byte ", i));
      }
      i += bytes;
    }
  }
  return absl::OkStatus();
}

std::string XmpPacket(const Metadata& metadata) {
  std::string xml =
      "<?xpacket begin=\"\xEF\xBB\xBF\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n"
      "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\n"
      "<rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\n"
      "<rdf:Description rdf:about=\"\" xmlns:patchflow=\"urn:patchflow#\" "
      "xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\">\n";
  for (const auto& [key, value] : metadata) {
    const std::string name =
        absl::StrCat(key == kDigitalSourceType ? "Iptc4xmpExt:" : "patchflow:", key);
    absl::StrAppend(&xml, "<", name, ">");
    for (size_t i = 0; i < value.size();) {
      const std::string_view rest = std::string_view(value).substr(i);
      const std::string_view character = rest.substr(0, SequenceBytes(rest));
      xml += XmlOf(character);
      i += character.size();
    }
    absl::StrAppend(&xml, "</", name, ">\n");
  }
  return xml + "</rdf:Description>\n</rdf:RDF>\n</x:xmpmeta>\n<?xpacket end=\"r\"?>";
}

}  // namespace patchflow
