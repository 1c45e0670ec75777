// What is wrong with a GPU.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace patchflow {

// How it shows: see worker.proto.
enum class DeviceFaultKind { kXid, kEcc, kNvlink, kCudaError };

struct DeviceFault {
  DeviceFaultKind kind = DeviceFaultKind::kXid;
  int64_t code = 0;    // The Xid, the number of ECC errors, or the code of cudaError_t.
  std::string device;  // As the driver or CUDA calls it: "0000:1B:00.0", "cuda:0".
  std::string text;    // "cuda:0 gives CUDA error 700 (cudaErrorIllegalAddress)"

  // Another start won't help. Otherwise a new process may be rid of it.
  bool broken() const { return kind != DeviceFaultKind::kCudaError; }
  // How the worker ends for it: see exit_codes.h.
  int exit_code() const;
};

// What a code of cudaError_t that a call on a device gave says of it: broken hardware (ECC, NVLink,
// contained errors), or an error that every further call of this process gives too. Nothing for
// other codes.
std::optional<DeviceFault> FaultOfCudaError(int code, const std::string& device);

}  // namespace patchflow
