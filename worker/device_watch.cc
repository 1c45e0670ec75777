#include "worker/device_watch.h"

#include <array>
#include <condition_variable>
#include <string>
#include <utility>

#include "worker/log.h"
#ifdef PATCHFLOW_CUDA
#include <cuda_runtime_api.h>
#endif

namespace patchflow {
namespace {

#ifdef PATCHFLOW_CUDA
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
#else
std::string BusIdOf(const at::Device& /*device*/) { return ""; }
int AskDevice(const at::Device& /*device*/) { return 0; }
#endif

std::unique_ptr<NvmlWatch> ListenTo(const std::vector<at::Device>& devices) {
  std::vector<std::string> bus_ids;
  for (const at::Device& device : devices) {
    if (device.is_cuda()) bus_ids.push_back(BusIdOf(device));
  }
  if (bus_ids.empty()) return nullptr;
  auto driver = NvmlWatch::Open("libnvidia-ml.so.1", bus_ids);
  if (driver.ok()) return *std::move(driver);
  Log(LogLevel::kWarning, "the driver's errors are not listened to",
      {{"why", std::string(driver.status().message())}});
  return nullptr;
}

}  // namespace

DeviceWatch::DeviceWatch(std::vector<at::Device> devices)
    : devices_(std::move(devices)), driver_(ListenTo(devices_)) {}

DeviceWatch::DeviceWatch(std::vector<at::Device> devices, std::unique_ptr<NvmlWatch> driver)
    : devices_(std::move(devices)), driver_(std::move(driver)) {}

std::optional<DeviceFault> DeviceWatch::AskDriverLocked() {
  if (driver_ == nullptr || (found_.has_value() && found_->broken())) return found_;
  std::vector<DeviceFault> faults = driver_->TakeFaults();
  if (faults.empty()) return found_;
  found_ = faults.front();
  for (size_t i = 1; i < faults.size(); ++i) found_->text += ", " + faults[i].text;
  found_->text += ": it is broken";
  return found_;
}

std::optional<DeviceFault> DeviceWatch::AskDriver() {
  const std::lock_guard lock(mutex_);
  return AskDriverLocked();
}

std::optional<DeviceFault> DeviceWatch::Find() {
  const std::lock_guard lock(mutex_);
  if (AskDriverLocked().has_value()) return found_;
  for (const at::Device& device : devices_) {
    if (!device.is_cuda()) continue;
    const auto fault = FaultOfCudaError(AskDevice(device), device.str());
    if (fault.has_value() && (!found_.has_value() || fault->broken())) found_ = fault;
  }
  return found_;
}

DeviceAlarm::DeviceAlarm(std::function<std::optional<DeviceFault>()> ask, absl::Duration interval,
                         std::function<void(const DeviceFault& fault)> on_fault)
    : thread_([ask = std::move(ask), interval,
               on_fault = std::move(on_fault)](const std::stop_token& stop) {
        std::mutex mutex;
        std::condition_variable_any never;
        std::unique_lock lock(mutex);
        while (!stop.stop_requested()) {
          if (const auto fault = ask()) return on_fault(*fault);
          never.wait_for(lock, stop, absl::ToChronoNanoseconds(interval), [] { return false; });
        }
      }) {}

DeviceAlarm::~DeviceAlarm() = default;

}  // namespace patchflow
