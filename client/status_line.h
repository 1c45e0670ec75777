// Progress on the terminal.
#pragma once

#include <string>

#include "client/console.h"

namespace patchflow {

// The line of console.err that says how it stands: written over on a terminal, cut to its width; a
// line each time elsewhere. Not thread-safe.
class StatusLine {
 public:
  // `console` must outlive it.
  explicit StatusLine(Console& console) : console_(console) {}
  void Show(std::string text);
  // Makes room for another line.
  void Clear();
  // Leaves it where it stands; what follows comes below.
  void Keep();

 private:
  Console& console_;
  bool shown_ = false;
};

}  // namespace patchflow
