#pragma once

#include <string>

namespace patchflow {

// 32 bytes.
std::string Sha256(const std::string& data);

}  // namespace patchflow
