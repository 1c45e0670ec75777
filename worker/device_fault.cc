#include "worker/device_fault.h"

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/exit_codes.h"
#ifdef PATCHFLOW_CUDA
#include <cuda_runtime_api.h>
#endif

namespace patchflow {
namespace {

struct Known {
  int code;
  const char* name;
  bool broken;
};
// Of CUDA 13's driver_types.h.
constexpr std::array kKnown = {
    Known{214, "cudaErrorECCUncorrectable", true},
    Known{220, "cudaErrorNvlinkUncorrectable", true},
    Known{226, "cudaErrorContained", true},
    Known{700, "cudaErrorIllegalAddress", false},
    Known{702, "cudaErrorLaunchTimeout", false},
    Known{710, "cudaErrorAssert", false},
    Known{714, "cudaErrorHardwareStackError", false},
    Known{715, "cudaErrorIllegalInstruction", false},
    Known{716, "cudaErrorMisalignedAddress", false},
    Known{717, "cudaErrorInvalidAddressSpace", false},
    Known{718, "cudaErrorInvalidPc", false},
    Known{719, "cudaErrorLaunchFailure", false},
    Known{721, "cudaErrorTensorMemoryLeak", false},
};

}  // namespace

std::optional<DeviceFault> FaultOfCudaError(int code, const std::string& device) {
  for (const Known& known : kKnown) {
    if (known.code != code) continue;
    return DeviceFault{
        absl::StrCat(device, " gives CUDA error ", code, " (", known.name, ")",
                     known.broken ? ": it is broken" : ""),
        known.broken ? kExitSickDevice : kExitStickyError + code - kFirstStickyError};
  }
  return std::nullopt;
}

#ifdef PATCHFLOW_CUDA
std::optional<DeviceFault> FindDeviceFault(const std::vector<at::Device>& devices) {
  std::optional<DeviceFault> found;
  for (const at::Device& device : devices) {
    if (!device.is_cuda()) continue;
    // Of an error that stays, any call tells; these do not wait.
    int code = cudaSetDevice(device.index());
    if (code == cudaSuccess) code = cudaStreamQuery(cudaStreamPerThread);
    const auto fault = FaultOfCudaError(code, device.str());
    if (fault.has_value() && (!found.has_value() || fault->exit_code == kExitSickDevice)) {
      found = fault;
    }
  }
  return found;
}
#else
std::optional<DeviceFault> FindDeviceFault(const std::vector<at::Device>& /*devices*/) {
  return std::nullopt;
}
#endif

}  // namespace patchflow
