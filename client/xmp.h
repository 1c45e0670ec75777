// The texts of an XMP packet, as image files of this server carry it.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace patchflow {

// The simple properties of the packet (ISO 16684-1, 7.4) by their names without namespace: those of
// "patchflow:" and IPTC's "DigitalSourceType". Others, and those that are no plain text, are passed
// over; so is everything in a packet without an rdf:Description that is written out.
std::map<std::string, std::string> XmpTexts(std::string_view packet);

}  // namespace patchflow
