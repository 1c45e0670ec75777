#include "worker/device_fault.h"

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "worker/exit_codes.h"
#include "worker/log.h"
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
namespace {

std::string BusIdOf(const at::Device& device) {
  std::array<char, 32> id{};
  return cudaDeviceGetPCIBusId(id.data(), static_cast<int>(id.size()), device.index()) ==
                 cudaSuccess
             ? id.data()
             : "";
}

// Of an error that stays, any call tells; these do not wait.
int AskDevice(const at::Device& device) {
  const cudaError_t error = cudaSetDevice(device.index());
  return error == cudaSuccess ? cudaStreamQuery(cudaStreamPerThread) : error;
}

}  // namespace

DeviceWatch::DeviceWatch(std::vector<at::Device> devices) : devices_(std::move(devices)) {
  std::vector<std::string> bus_ids;
  for (const at::Device& device : devices_) {
    if (device.is_cuda()) bus_ids.push_back(BusIdOf(device));
  }
  if (bus_ids.empty()) return;
  auto driver = NvmlWatch::Open("libnvidia-ml.so.1", bus_ids);
  if (driver.ok()) {
    driver_ = *std::move(driver);
  } else {
    Log(LogLevel::kWarning, "the driver's errors are not listened to",
        {{"why", std::string(driver.status().message())}});
  }
}

std::optional<DeviceFault> DeviceWatch::Find() {
  if (driver_ != nullptr) {
    if (const std::vector<std::string> faults = driver_->TakeFaults(); !faults.empty()) {
      return DeviceFault{absl::StrCat(absl::StrJoin(faults, ", "), ": it is broken"),
                         kExitSickDevice};
    }
  }
  std::optional<DeviceFault> found;
  for (const at::Device& device : devices_) {
    if (!device.is_cuda()) continue;
    const auto fault = FaultOfCudaError(AskDevice(device), device.str());
    if (fault.has_value() && (!found.has_value() || fault->exit_code == kExitSickDevice)) {
      found = fault;
    }
  }
  return found;
}
#else
DeviceWatch::DeviceWatch(std::vector<at::Device> devices) : devices_(std::move(devices)) {}

std::optional<DeviceFault> DeviceWatch::Find() { return std::nullopt; }
#endif

}  // namespace patchflow
