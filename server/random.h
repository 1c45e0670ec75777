// Numbers that nobody can guess, from the kernel.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace patchflow {

uint64_t RandomBits();
// 0 to 2^53 - 1.
uint64_t RandomSeed();
// A UUID of version 4.
std::string RandomUuid();
// Uniform in [low, high).
double RandomBetween(double low, double high);
// The delay, 20 % more or less, so that clients told to come back don't come back at once.
absl::Duration Jittered(absl::Duration delay);

}  // namespace patchflow
