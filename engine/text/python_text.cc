#include "engine/text/python_text.h"

#include <unicode/ucasemap.h>
#include <unicode/utf8.h>

#include <limits>
#include <memory>
#include <stdexcept>

namespace patchflow {
namespace {

// bidirectional type WS, B or S, or category Zs.
bool IsSpace(UChar32 c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

void Check(UErrorCode code) {
  if (U_FAILURE(code)) throw std::runtime_error(std::string("lower case: ") + u_errorName(code));
}

int32_t Length(std::string_view text) {
  if (text.size() > size_t{std::numeric_limits<int32_t>::max() / 4}) {
    throw std::length_error("a text of " + std::to_string(text.size()) + " bytes");
  }
  return static_cast<int32_t>(text.size());
}

}  // namespace

std::string PythonLower(std::string_view text) {
  UErrorCode code = U_ZERO_ERROR;
  const std::unique_ptr<UCaseMap, decltype(&ucasemap_close)> map(ucasemap_open("", 0, &code),
                                                                 &ucasemap_close);
  Check(code);
  std::string out(text.size() + 16, '\0');
  int32_t length = ucasemap_utf8ToLower(map.get(), out.data(), static_cast<int32_t>(out.size()),
                                        text.data(), Length(text), &code);
  if (code == U_BUFFER_OVERFLOW_ERROR) {
    code = U_ZERO_ERROR;
    out.resize(length + 1);
    length =
        ucasemap_utf8ToLower(map.get(), out.data(), length + 1, text.data(), Length(text), &code);
  }
  Check(code);
  out.resize(length);
  return out;
}

std::string_view PythonStripLeft(std::string_view text) {
  const int32_t length = Length(text);
  int32_t begin = 0;
  while (begin < length) {
    int32_t next = begin;
    UChar32 c = 0;
    U8_NEXT(text.data(), next, length, c);
    if (!IsSpace(c)) break;
    begin = next;
  }
  return text.substr(begin);
}

std::string_view PythonStripRight(std::string_view text) {
  int32_t end = Length(text);
  while (end > 0) {
    int32_t before = end;
    UChar32 c = 0;
    U8_PREV(text.data(), 0, before, c);
    if (!IsSpace(c)) break;
    end = before;
  }
  return text.substr(0, end);
}

std::string_view PythonStrip(std::string_view text) {
  return PythonStripRight(PythonStripLeft(text));
}

}  // namespace patchflow
