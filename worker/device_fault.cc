#include "worker/device_fault.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "worker/exit_codes.h"

namespace patchflow {
namespace {

struct Known {
  int code;
  const char* name;
  DeviceFaultKind kind;
};
// Of CUDA 13's driver_types.h.
constexpr std::array kKnown = {
    Known{214, "cudaErrorECCUncorrectable", DeviceFaultKind::kEcc},
    Known{220, "cudaErrorNvlinkUncorrectable", DeviceFaultKind::kNvlink},
    Known{226, "cudaErrorContained", DeviceFaultKind::kEcc},
    Known{700, "cudaErrorIllegalAddress", DeviceFaultKind::kCudaError},
    Known{702, "cudaErrorLaunchTimeout", DeviceFaultKind::kCudaError},
    Known{710, "cudaErrorAssert", DeviceFaultKind::kCudaError},
    Known{714, "cudaErrorHardwareStackError", DeviceFaultKind::kCudaError},
    Known{715, "cudaErrorIllegalInstruction", DeviceFaultKind::kCudaError},
    Known{716, "cudaErrorMisalignedAddress", DeviceFaultKind::kCudaError},
    Known{717, "cudaErrorInvalidAddressSpace", DeviceFaultKind::kCudaError},
    Known{718, "cudaErrorInvalidPc", DeviceFaultKind::kCudaError},
    Known{719, "cudaErrorLaunchFailure", DeviceFaultKind::kCudaError},
    Known{721, "cudaErrorTensorMemoryLeak", DeviceFaultKind::kCudaError},
};

}  // namespace

int DeviceFault::exit_code() const {
  return broken() ? kExitSickDevice : kExitStickyError + static_cast<int>(code) - kFirstStickyError;
}

std::optional<DeviceFault> FaultOfCudaError(int code, const std::string& device) {
  for (const Known& known : kKnown) {
    if (known.code != code) continue;
    DeviceFault fault{known.kind, code, device,
                      absl::StrCat(device, " gives CUDA error ", code, " (", known.name, ")")};
    if (fault.broken()) absl::StrAppend(&fault.text, ": it is broken");
    return fault;
  }
  return std::nullopt;
}

}  // namespace patchflow
