// Whether a GPU can be used again after a fault.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

namespace patchflow {

struct DeviceFault {
  std::string text;   // "cuda:0 gives CUDA error 700 (cudaErrorIllegalAddress)"
  int exit_code = 0;  // See exit_codes.h.
};

// What a code of cudaError_t that a call on a device gave says of it: broken hardware (ECC, NVLink,
// contained errors), or an error that every further call of this process gives too, which a new
// process may be rid of. Nothing for other codes.
std::optional<DeviceFault> FaultOfCudaError(int code, const std::string& device);

// Asks every GPU. Does not wait for what they do. Nothing on CPUs.
std::optional<DeviceFault> FindDeviceFault(const std::vector<at::Device>& devices);

}  // namespace patchflow
