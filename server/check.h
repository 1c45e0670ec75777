// patchflow-server --check: whether a configuration can work on this machine, before anything
// starts.
#pragma once

#include <string>
#include <vector>

#include "server/config.h"

namespace patchflow {

// One thing that was looked at.
struct CheckRow {
  enum Verdict { kGood, kWarning, kBad };

  std::string what;  // Of the configuration: "security.tls", "groups[main].model".
  Verdict verdict = kGood;
  std::string text;
};

// TLS pairs and their ends, tokens, ports, the worker program, and of every group that is started
// here the weights' files, the layout, what the worker says to it, /dev/shm, GPUs, the links
// between them and the memory that each rank needs; audit log and store. Listens on all ports for
// a moment, and runs `patchflow-worker --check` for each group, 30 s at most; serves, loads and
// writes nothing. `nvml`: the driver's library.
std::vector<CheckRow> CheckConfig(const ServerConfig& config,
                                  const std::string& nvml = "libnvidia-ml.so.1");

// A table, one row a line.
std::string CheckTable(const std::vector<CheckRow>& rows);
// Whether no row is bad.
bool CheckPassed(const std::vector<CheckRow>& rows);

}  // namespace patchflow
