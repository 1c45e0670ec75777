// Key and value pairs that go into image files.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace patchflow {

using Metadata = std::vector<std::pair<std::string, std::string>>;

// INVALID_ARGUMENT unless every key can be a PNG keyword and an XML name, 1 to 79 of [A-Za-z0-9_.-]
// beginning with a letter or '_', no key comes twice, and every value is UTF-8 without NUL.
absl::Status CheckMetadata(const Metadata& metadata);

// An XMP packet (ISO 16684-1): each pair a simple property of the namespace "urn:patchflow#".
// Characters that XML 1.0 can't hold (controls but tab, line feed and carriage return; U+FFFE,
// U+FFFF) become U+FFFD. `metadata` has passed CheckMetadata.
std::string XmpPacket(const Metadata& metadata);

}  // namespace patchflow
