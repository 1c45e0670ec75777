// Values that several parts of the configuration have: addresses and paths.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "server/config_reader.h"

namespace patchflow {

inline constexpr absl::Duration kDay = absl::Hours(24);

// Notes a fault if it is neither empty nor host:port, [v6]:port or unix:PATH.
void CheckAddress(MapReader& reader, const std::string& key, const std::string& address);
// Whether nobody but this host reaches it.
bool IsThisHost(const std::string& address);

// `directory`/`path`, or `path` if it is absolute, without "." and "..".
std::string AbsolutePath(const std::string& path, const std::string& directory);
// The path at `key`, absolute; empty if there is none.
std::string ReadPath(MapReader& reader, const std::string& key, const std::string& directory);

}  // namespace patchflow
