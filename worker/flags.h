// The worker's command line.
#pragma once

#include <optional>
#include <string>

#include "absl/time/time.h"

namespace patchflow {

struct WorkerFlags {
  std::string socket;
  std::string listen;
  std::string tls_cert;  // PEM files of --listen; all or none.
  std::string tls_key;
  std::string tls_ca;
  bool plaintext = false;  // --listen may be open without TLS.
  std::string health;
  std::string model;
  std::string device = "auto";
  std::string dtype = "auto";
  std::string layout;
  int ranks = 1;
  int group_ranks = 0;  // Of the group, on all of its workers; 0: ranks.
  int first_gpu = 0;    // Rank i of this worker has GPU first_gpu + i.
  int batch_size = 1;
  int threads = 0;
  double default_guidance = 0;
  std::string warm_up;
  absl::Duration load_timeout = absl::Minutes(30);
  absl::Duration first_run_timeout = absl::Seconds(120);
  absl::Duration phase_timeout = absl::Seconds(10);
  std::string black_box;
  std::string log_level = "info";
  std::string fault_orders;
  bool die_with_parent = false;
  bool check = false;  // Only look whether the model and the devices allow the rest.
};

struct ParsedFlags {
  std::optional<int>
      exit_code;  // Help or version was asked for, or something is wrong; it was printed.
  WorkerFlags flags;
};
ParsedFlags ParseFlags(int argc, const char* const* argv);

}  // namespace patchflow
