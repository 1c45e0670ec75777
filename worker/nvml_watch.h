// What the driver says of the health of GPUs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/device_fault.h"

namespace patchflow {

// Used by one thread at a time. Source of the interface: NVIDIA's NVML API reference (events, ECC
// counters) and its list of Xid errors.
class NvmlWatch {
 public:
  // Loads NVML and listens for Xid errors of the devices with these PCI bus ids ("0000:1B:00.0").
  // `library`: usually "libnvidia-ml.so.1". NOT_FOUND without it, UNAVAILABLE if it refuses.
  static absl::StatusOr<std::unique_ptr<NvmlWatch>> Open(const std::string& library,
                                                         const std::vector<std::string>& bus_ids);
  ~NvmlWatch();
  NvmlWatch(const NvmlWatch&) = delete;
  NvmlWatch& operator=(const NvmlWatch&) = delete;

  // What has come up since Open() or the last call that means broken hardware, in words as
  // "0000:1B:00.0: Xid 79", "0000:1B:00.0: 2 uncorrectable ECC errors". Xid errors that a program
  // can cause are left out. Does not wait.
  std::vector<DeviceFault> TakeFaults();

 private:
  struct Library;
  explicit NvmlWatch(std::unique_ptr<Library> library);
  const std::unique_ptr<Library> library_;
};

// Whether this Xid error means that the device, not the program, is at fault.
bool XidMeansBrokenDevice(unsigned long long xid);

}  // namespace patchflow
