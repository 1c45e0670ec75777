// Milliseconds of work on the current CUDA stream.
#pragma once

#include <ATen/cuda/CUDAEvent.h>

#include <algorithm>
#include <functional>
#include <vector>

namespace patchflow {

// Median over `repeats` runs, after `warm_up` runs.
inline double MedianMs(const std::function<void()>& run, int warm_up, int repeats) {
  for (int i = 0; i < warm_up; ++i) run();
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    at::cuda::CUDAEvent begin(cudaEventDefault);
    at::cuda::CUDAEvent end(cudaEventDefault);
    begin.record();
    run();
    end.record();
    end.synchronize();
    times.push_back(begin.elapsed_time(end));
  }
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return times[repeats / 2];
}

}  // namespace patchflow
