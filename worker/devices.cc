#include "worker/devices.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/device.h"

namespace patchflow {
namespace {

constexpr std::array<std::pair<std::string_view, at::ScalarType>, 4> kTypes = {
    std::pair{"float32", at::kFloat}, std::pair{"bfloat16", at::kBFloat16},
    std::pair{"float16", at::kHalf}, std::pair{"float8", at::kFloat8_e4m3fn}};

absl::StatusOr<bool> UseGpus(std::string_view device, int ranks, int first_gpu) {
  if (device == "cpu") return false;
  if (device != "auto" && device != "cuda") {
    return absl::InvalidArgumentError(
        absl::StrCat("--device: '", std::string(device), "' is none of auto, cpu, cuda"));
  }
  const int gpus = CudaDeviceCount();
  if (gpus >= first_gpu + ranks) return true;
  if (device == "auto" && gpus == 0) return false;
  return absl::FailedPreconditionError(absl::StrCat(
      "--device: ", std::string(device), ": ", ranks, " ranks need as many GPUs from number ",
      first_gpu, " on, and ", gpus, " can be used here"));
}

absl::StatusOr<at::ScalarType> ChooseType(std::string_view dtype, bool gpus) {
  if (dtype == "auto") return gpus ? at::kBFloat16 : at::kFloat;
  const auto* known = std::find_if(kTypes.begin(), kTypes.end(),
                                   [&](const auto& type) { return type.first == dtype; });
  if (known == kTypes.end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--dtype: '", std::string(dtype), "' is none of auto, float32, bfloat16, float16, float8"));
  }
  if (!gpus && known->second != at::kFloat) {
    return absl::InvalidArgumentError(
        absl::StrCat("--dtype: ", std::string(dtype), ": CPUs compute in float32 alone"));
  }
  return known->second;
}

}  // namespace

absl::StatusOr<Devices> ChooseDevices(std::string_view device, std::string_view dtype, int ranks,
                                      int first_gpu) {
  const absl::StatusOr<bool> gpus = UseGpus(device, ranks, first_gpu);
  if (!gpus.ok()) return gpus.status();
  const absl::StatusOr<at::ScalarType> type = ChooseType(dtype, *gpus);
  if (!type.ok()) return type.status();
  Devices devices;
  devices.dtype = *type;
  for (const auto& [name, known] : kTypes) {
    if (known == *type) devices.dtype_name = std::string(name);
  }
  for (int rank = 0; rank < ranks; ++rank) {
    devices.of_rank.push_back(
        *gpus ? at::Device(at::kCUDA, static_cast<at::DeviceIndex>(first_gpu + rank))
              : at::Device(at::kCPU));
  }
  devices.name = DeviceName(devices.of_rank.front());
  return devices;
}

int UsableCores() {
  const int affine = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  std::ifstream file("/sys/fs/cgroup/cpu.max");  // "max 100000", or microseconds of each period.
  double quota = 0;
  double period = 0;
  if (!(file >> quota >> period) || period <= 0) return affine;
  return std::clamp(static_cast<int>(quota / period + 0.5), 1, affine);
}

}  // namespace patchflow
