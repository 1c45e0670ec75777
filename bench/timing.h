// Times of repeated work on one device.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace patchflow {

struct Repeats {
  int warm_up = 5;
  int measured = 20;
};

struct Quantiles {
  double p10_ms = 0;
  double median_ms = 0;
  double p90_ms = 0;
};
// Of at least one time.
Quantiles QuantilesOf(std::vector<double> times_ms);

// Milliseconds of one run(), which is enqueued `burst` times between two marks so that short
// kernels are not measured with the gap before them. GPUs: by events of the current stream; CPUs:
// by the clock.
Quantiles TimeOf(at::Device device, const std::function<void()>& run, Repeats repeats = {},
                 int burst = 1);

// 1e9 floating-point operations a millisecond is a TFLOP/s.
inline double TeraflopPerSecond(double flop, double ms) { return flop / ms / 1e9; }

}  // namespace patchflow
