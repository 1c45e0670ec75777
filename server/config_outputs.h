// The keys of what the server writes: `audit`, `store`, `black_box`, `tracing`.
#pragma once

#include <string>

#include "server/config.h"
#include "server/config_reader.h"

namespace patchflow {

// Relative paths start at `directory`. Faults are noted in `reader`.
AuditConfig ReadAudit(MapReader reader, const std::string& directory);
StoreConfig ReadStore(MapReader reader, const std::string& directory);
BlackBoxConfig ReadBlackBox(MapReader reader, const std::string& directory);
TracingConfig ReadTracing(MapReader reader, const std::string& directory);

}  // namespace patchflow
