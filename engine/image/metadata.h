// Key and value pairs that go into image files.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace patchflow {

using Metadata = std::vector<std::pair<std::string, std::string>>;

// A key of its own: where a picture comes from, in the words of IPTC (Photo Metadata Standard
// 2023.1, Digital Source Type). Its value is a URI of
// http://cv.iptc.org/newscodes/digitalsourcetype/, and every format tells it in XMP as that
// standard has it.
inline constexpr std::string_view kDigitalSourceType = "DigitalSourceType";

// INVALID_ARGUMENT unless every key can be a PNG keyword and an XML name, 1 to 79 of [A-Za-z0-9_.-]
// beginning with a letter or '_', no key comes twice, and every value is UTF-8 without NUL.
absl::Status CheckMetadata(const Metadata& metadata);

// An XMP packet (ISO 16684-1): each pair a simple property of the namespace "urn:patchflow#",
// kDigitalSourceType one of IPTC's extension schema.
// Characters that XML 1.0 can't hold (controls but tab, line feed and carriage return; U+FFFE,
// U+FFFF) become U+FFFD. `metadata` has passed CheckMetadata.
std::string XmpPacket(const Metadata& metadata);

}  // namespace patchflow
