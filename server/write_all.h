#pragma once

#include <cstddef>
#include <string_view>

namespace patchflow {

// Writes `bytes` to the open `file`, for as long as the system takes. How many of them are in it:
// fewer than all after an error, which errno tells (ENOSPC where the system took none and named
// none). Thread-safe.
size_t WriteAll(int file, std::string_view bytes);

}  // namespace patchflow
