#include "server/random.h"

#include <sys/random.h>

#include <cstdio>
#include <cstdlib>

namespace patchflow {

uint64_t RandomBits() {
  uint64_t bits = 0;
  if (getrandom(&bits, sizeof bits, 0) != sizeof bits) {
    std::abort();  // Cannot happen for so few bytes (getrandom(2)).
  }
  return bits;
}

uint64_t RandomSeed() { return RandomBits() >> 11; }

std::string RandomUuid() {
  const uint64_t a = (RandomBits() & ~uint64_t{0xF000}) | 0x4000;
  const uint64_t b = (RandomBits() & ~(uint64_t{3} << 62)) | (uint64_t{2} << 62);
  char text[37];
  std::snprintf(text, sizeof text, "%08x-%04x-%04x-%04x-%012llx", static_cast<unsigned>(a >> 32),
                static_cast<unsigned>((a >> 16) & 0xFFFF), static_cast<unsigned>(a & 0xFFFF),
                static_cast<unsigned>(b >> 48),
                static_cast<unsigned long long>(b & 0xFFFFFFFFFFFFULL));
  return text;
}

double RandomBetween(double low, double high) {
  return low + (high - low) * static_cast<double>(RandomSeed()) / static_cast<double>(1ULL << 53);
}

absl::Duration Jittered(absl::Duration delay) { return delay * RandomBetween(0.8, 1.2); }

}  // namespace patchflow
