#include "engine/image/png_filter.h"

#include <algorithm>
#include <cstdlib>

namespace patchflow {
namespace {

constexpr size_t kPixelBytes = 3;

// a left, b above, c above left.
uint8_t Paeth(int a, int b, int c) {
  const int to_a = std::abs(b - c);
  const int to_b = std::abs(a - c);
  const int to_c = std::abs(a + b - 2 * c);
  const int other = to_b <= to_c ? b : c;
  return static_cast<uint8_t>(to_a <= to_b && to_a <= to_c ? a : other);
}

struct None {
  static uint8_t Predict(int, int, int) { return 0; }
};
struct Sub {
  static uint8_t Predict(int a, int, int) { return static_cast<uint8_t>(a); }
};
struct Up {
  static uint8_t Predict(int, int b, int) { return static_cast<uint8_t>(b); }
};
struct Average {
  static uint8_t Predict(int a, int b, int) { return static_cast<uint8_t>((a + b) / 2); }
};
struct PaethPredictor {
  static uint8_t Predict(int a, int b, int c) { return Paeth(a, b, c); }
};

uint32_t Magnitudes(const uint8_t* residuals, size_t bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes; ++i) {
    sum += std::min<uint8_t>(residuals[i], static_cast<uint8_t>(-residuals[i]));
  }
  return sum;
}

// Residuals of one filter; returns their magnitude.
template <typename Predictor>
uint64_t Apply(const uint8_t* __restrict row, const uint8_t* __restrict above, size_t bytes,
               uint8_t* __restrict out) {
  for (size_t i = 0; i < std::min(bytes, kPixelBytes); ++i) {
    out[i] = static_cast<uint8_t>(row[i] - Predictor::Predict(0, above[i], 0));
  }
  for (size_t i = kPixelBytes; i < bytes; ++i) {
    out[i] = static_cast<uint8_t>(
        row[i] - Predictor::Predict(row[i - kPixelBytes], above[i], above[i - kPixelBytes]));
  }
  constexpr size_t kRunBytes = size_t{1} << 24;  // A uint32_t holds the sum of as many.
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes; i += kRunBytes) {
    sum += Magnitudes(out + i, std::min(kRunBytes, bytes - i));
  }
  return sum;
}

}  // namespace

RowFilter::RowFilter(size_t row_bytes)
    : row_bytes_(row_bytes), zeros_(row_bytes), trial_(row_bytes) {}

void RowFilter::Filter(const uint8_t* row, const uint8_t* above, uint8_t* out) {
  using Function = uint64_t (*)(const uint8_t*, const uint8_t*, size_t, uint8_t*);
  constexpr Function kByNumber[] = {Apply<None>, Apply<Sub>, Apply<Up>, Apply<Average>,
                                    Apply<PaethPredictor>};
  if (above == nullptr) above = zeros_.data();
  uint64_t least = kByNumber[0](row, above, row_bytes_, out + 1);
  out[0] = 0;
  for (size_t number = 1; number < std::size(kByNumber); ++number) {
    const uint64_t sum = kByNumber[number](row, above, row_bytes_, trial_.data());
    if (sum >= least) continue;
    least = sum;
    out[0] = static_cast<uint8_t>(number);
    std::copy(trial_.begin(), trial_.end(), out + 1);
  }
}

}  // namespace patchflow
