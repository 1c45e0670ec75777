// Of patchflow-server --check: the addresses that the server listens on.
#pragma once

#include <vector>

#include "server/check.h"
#include "server/config.h"

namespace patchflow {

// A row for each address that is given, whether the server can listen on it beside the others.
// Listens on all of them together, as the server does, until it returns; answers nobody. Of a
// "unix:PATH" only the folder is looked at.
std::vector<CheckRow> CheckPorts(const ServerConfig& config);

}  // namespace patchflow
