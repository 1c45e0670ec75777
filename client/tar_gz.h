// Packs files in memory into a .tar.gz.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace patchflow {

struct PackedFile {
  std::string name;  // At most 99 bytes, relative.
  std::string bytes;
};

// Writes a new file, in ustar's format, that this user alone may read. ALREADY_EXISTS,
// INVALID_ARGUMENT for a name that is too long, UNAVAILABLE if it can't be written.
absl::Status WriteTarGz(const std::string& path, const std::vector<PackedFile>& files,
                        absl::Time time);

}  // namespace patchflow
