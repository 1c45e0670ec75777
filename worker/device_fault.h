// Whether a GPU can be used again after a fault.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "worker/nvml_watch.h"

namespace patchflow {

struct DeviceFault {
  std::string text;   // "cuda:0 gives CUDA error 700 (cudaErrorIllegalAddress)"
  int exit_code = 0;  // See exit_codes.h.
};

// What a code of cudaError_t that a call on a device gave says of it: broken hardware (ECC, NVLink,
// contained errors), or an error that every further call of this process gives too, which a new
// process may be rid of. Nothing for other codes.
std::optional<DeviceFault> FaultOfCudaError(int code, const std::string& device);

// The devices of this worker. Used by one thread at a time.
class DeviceWatch {
 public:
  // Listens to the driver from now on, where there are GPUs and NVML; logs if it can't.
  explicit DeviceWatch(std::vector<at::Device> devices);

  // Asks the driver for Xid and ECC errors, and every GPU for an error that stays. Does not wait
  // for what they do. Nothing on CPUs.
  std::optional<DeviceFault> Find();

 private:
  const std::vector<at::Device> devices_;
  std::unique_ptr<NvmlWatch> driver_;  // Null: not listened to.
};

}  // namespace patchflow
