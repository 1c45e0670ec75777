#include "client/status_line.h"

#include <algorithm>
#include <ostream>

namespace patchflow {

void StatusLine::Show(std::string text) {
  if (!console_.err_is_terminal) {
    console_.err << text << std::endl;
    return;
  }
  text.resize(std::min(text.size(), static_cast<size_t>(std::max(1, console_.columns) - 1)));
  console_.err << "\r" << text << "\x1B[K" << std::flush;
  shown_ = true;
}

void StatusLine::Clear() {
  if (shown_) console_.err << "\r\x1B[K" << std::flush;
  shown_ = false;
}

void StatusLine::Keep() {
  if (shown_) console_.err << std::endl;
  shown_ = false;
}

}  // namespace patchflow
