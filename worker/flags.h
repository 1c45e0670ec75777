// The worker's command line.
#pragma once

#include <optional>
#include <string>

#include "absl/time/time.h"

namespace patchflow {

struct WorkerFlags {
  std::string socket;
  std::string listen;
  std::string model;
  std::string device = "auto";
  std::string dtype = "auto";
  std::string layout;
  int ranks = 1;
  int threads = 0;
  double default_guidance = 0;
  absl::Duration load_timeout = absl::Minutes(30);
  absl::Duration first_run_timeout = absl::Seconds(120);
  bool die_with_parent = false;
};

struct ParsedFlags {
  std::optional<int>
      exit_code;  // Help or version was asked for, or something is wrong; it was printed.
  WorkerFlags flags;
};
ParsedFlags ParseFlags(int argc, const char* const* argv);

}  // namespace patchflow
