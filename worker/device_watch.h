// Whether the GPUs of this worker can be used.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "worker/device_fault.h"
#include "worker/nvml_watch.h"

namespace patchflow {

// The devices of this worker. Thread-safe. What was found once is found for ever.
class DeviceWatch {
 public:
  // Listens to the driver from now on, where there are GPUs and NVML; logs if it can't.
  explicit DeviceWatch(std::vector<at::Device> devices);
  // Listens to this driver; null: to none.
  DeviceWatch(std::vector<at::Device> devices, std::unique_ptr<NvmlWatch> driver);

  // Asks the driver for Xid and ECC errors, and every GPU for an error that stays. Does not wait
  // for what they do. Nothing on CPUs.
  std::optional<DeviceFault> Find();
  // Asks the driver alone, which disturbs no GPU. Some milliseconds a GPU.
  std::optional<DeviceFault> AskDriver();

 private:
  std::optional<DeviceFault> AskDriverLocked();

  const std::vector<at::Device> devices_;
  std::mutex mutex_;
  std::unique_ptr<NvmlWatch> driver_;
  std::optional<DeviceFault> found_;
};

// Asks again and again, whatever the worker does or does not, and tells the first fault, once.
class DeviceAlarm {
 public:
  DeviceAlarm(std::function<std::optional<DeviceFault>()> ask, absl::Duration interval,
              std::function<void(const DeviceFault& fault)> on_fault);
  ~DeviceAlarm();  // Waits for the one that asks.

 private:
  std::jthread thread_;
};

}  // namespace patchflow
