// Where the programs' words go, and what its exit status says.
#pragma once

#include <iosfwd>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace patchflow {

// Borrowed streams. Results go to `out`; progress, notes and errors go to `err`.
struct Console {
  std::ostream& out;
  std::ostream& err;
  bool err_is_terminal = false;
  int columns = 80;
};

enum ExitCode : int {
  kExitOk = 0,
  kExitOther = 1,
  kExitUsage = 2,
  kExitRefused = 3,
  kExitUnavailable = 4,
  kExitDeadline = 5,
  kExitCancelled = 6,
};

// The exit status that a call's outcome stands for.
ExitCode ExitCodeOf(const absl::Status& status);

// The table of exit statuses, for --help.
std::string ExitCodeHelp();

// `text` with every control character but tabs and line feeds shown as \xNN, so that what a server
// says can't steer the terminal.
std::string Printable(std::string_view text);

}  // namespace patchflow
