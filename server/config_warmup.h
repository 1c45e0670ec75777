// The key `warmup` of a group: sizes of which its worker makes an image before it is ready.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/config_reader.h"

namespace patchflow {

// As "1024x512" each, without leading zeros. Notes as faults what is no size of 1 to 8192 a side,
// what is named twice, and more than 16. What the model makes of a size is the worker's to say.
std::vector<std::string> ReadWarmUp(MapReader& group);

// Notes sizes above limits.max_pixels (0: none), as every request for them would be refused.
void CheckWarmUp(MapReader& group, const std::vector<std::string>& sizes, int64_t max_pixels);

}  // namespace patchflow
