// Every kernel that a piece of work runs on the current GPU, by CUPTI.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

namespace patchflow {

struct KernelTimes {
  int64_t launches = 0;
  double ms = 0;
};

// Runs `work`, waits for the device, and returns the kernels and copies that ran meanwhile by their
// demangled names, those of replayed CUDA graphs among them. Their clock is the device's, so that
// the sum is what the work would take with no gap between kernels. Not reentrant. Throws
// std::runtime_error if CUPTI refuses.
std::map<std::string, KernelTimes> TraceKernels(const std::function<void()>& work);

}  // namespace patchflow
