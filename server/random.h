// Numbers that nobody can guess, from the kernel.
#pragma once

#include <cstdint>
#include <string>

namespace patchflow {

uint64_t RandomBits();
// 0 to 2^53 - 1.
uint64_t RandomSeed();
// A UUID of version 4.
std::string RandomUuid();
// Uniform in [low, high).
double RandomBetween(double low, double high);

}  // namespace patchflow
