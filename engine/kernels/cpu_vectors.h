// Vectors as wide as this file's compiler flags allow. Only for files that are compiled for one set
// of instructions: everything is in an unnamed namespace, so that no other file's code is replaced
// by code that a lesser processor can't run.
#pragma once

#include <cstdint>

namespace patchflow {
namespace {

#ifdef __AVX512F__
constexpr int64_t kLanes = 16;
#else
constexpr int64_t kLanes = 8;
#endif

using Vector = float __attribute__((vector_size(kLanes * sizeof(float))));
using Integers = int32_t __attribute__((vector_size(kLanes * sizeof(int32_t))));
// In memory, where elements stand anyhow.
using Stored = float __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

inline Vector Load(const float* from) { return *reinterpret_cast<const Stored*>(from); }
inline void Store(float* to, Vector v) { *reinterpret_cast<Stored*>(to) = v; }
inline Vector All(float value) { return value - Vector{}; }

inline float Sum(Vector v) {
  float sum = 0;
  for (int64_t i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
}

inline Vector Max(Vector a, Vector b) { return a > b ? a : b; }

// Relative error under 2e-7: 2^n e^r, |r| <= ln 2 / 2, e^r by Taylor's polynomial of degree 7
// with its last coefficients economised (Cephes, expf). Below -87 the result is 0, above 88 that
// of 88.
inline Vector Exp(Vector x) {
  constexpr float kLog2E = 1.44269504088896341F;
  constexpr float kLn2High = 0.693359375F;
  constexpr float kLn2Low = -2.12194440e-4F;
  constexpr float kRound = 12582912.0F;  // 1.5 2^23: adding it rounds to an integer.
  constexpr int32_t kBias = 127;
  constexpr int32_t kMantissa = 23;
  const Integers vanishes = x < All(-87.0F);
  x = x > All(88.0F) ? All(88.0F) : x;
  x = vanishes ? All(-87.0F) : x;
  const Vector shifted = x * kLog2E + kRound;
  const Vector n = shifted - kRound;
  const Vector r = (x - n * kLn2High) - n * kLn2Low;
  Vector p = r * 1.9875691500e-4F + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.0F;
  const Integers exponent = (__builtin_convertvector(n, Integers) + kBias) << kMantissa;
  return vanishes ? Vector{} : p * reinterpret_cast<Vector>(exponent);
}

}  // namespace
}  // namespace patchflow
