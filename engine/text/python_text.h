// Python's str.lower() and str.strip(), which checkpoints were trained behind.
#pragma once

#include <string>
#include <string_view>

namespace patchflow {

// Full Unicode lower case without a language: one letter may become two, and a final sigma is told
// from others. `text` is UTF-8.
std::string PythonLower(std::string_view text);

// What is left without white space at the left, the right, or both ends, as Python defines it
// (U+001C to U+001F count, U+200B does not).
std::string_view PythonStripLeft(std::string_view text);
std::string_view PythonStripRight(std::string_view text);
std::string_view PythonStrip(std::string_view text);

}  // namespace patchflow
