#include "server/host_gpus.h"

#include <dlfcn.h>

#include <array>
#include <memory>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace patchflow {
namespace {

// nvml.h, as far as it is used.
using Device = void*;
struct Memory {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};
struct PciInfo {
  char legacy_bus_id[16];
  unsigned domain;
  unsigned bus;
  unsigned device;
  unsigned pci_device_id;
  unsigned pci_subsystem_id;
  char bus_id[32];
};
constexpr int kSuccess = 0;
constexpr int kP2pOverNvlink = 2;
constexpr int kP2pWorks = 0;
constexpr int kMultipleSwitches = 20;
constexpr int kOneProcessor = 40;  // And below: host bridges of one.
constexpr int kSystem = 50;
constexpr unsigned kMaxGpus = 64;

class Nvml {
 public:
  explicit Nvml(const std::string& library)
      : handle_(dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL)) {}
  ~Nvml() {
    if (initialized_) {
      shutdown_();
    }
    if (handle_ != nullptr) {
      dlclose(handle_);
    }
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  absl::Status Start(const std::string& library) {
    if (handle_ == nullptr) {
      return absl::NotFoundError(absl::StrCat("there is no NVIDIA driver (no ", library, ")"));
    }
    const bool all =
        Find(init_, "nvmlInit_v2") && Find(shutdown_, "nvmlShutdown") &&
        Find(driver_, "nvmlSystemGetDriverVersion") && Find(count_, "nvmlDeviceGetCount_v2") &&
        Find(by_index_, "nvmlDeviceGetHandleByIndex_v2") && Find(name_, "nvmlDeviceGetName") &&
        Find(memory_, "nvmlDeviceGetMemoryInfo") && Find(pci_, "nvmlDeviceGetPciInfo_v3");
    Find(p2p_, "nvmlDeviceGetP2PStatus");
    Find(ancestor_, "nvmlDeviceGetTopologyCommonAncestor");
    if (!all) {
      return absl::UnavailableError(absl::StrCat(library, " is not the NVML that is known here"));
    }
    if (const int code = init_(); code != kSuccess) {
      return absl::UnavailableError(absl::StrCat("NVML can't be initialized (", code, ")"));
    }
    initialized_ = true;
    return absl::OkStatus();
  }

  std::string Driver() const {
    std::array<char, 96> text{};
    return driver_(text.data(), text.size()) == kSuccess ? text.data() : "unknown";
  }
  unsigned Count() const {
    unsigned count = 0;
    return count_(&count) == kSuccess ? std::min(count, kMaxGpus) : 0;
  }
  absl::StatusOr<HostGpu> Describe(unsigned index, Device& device) const {
    HostGpu gpu;
    std::array<char, 96> name{};
    Memory memory{};
    PciInfo pci{};
    if (by_index_(index, &device) != kSuccess ||
        name_(device, name.data(), name.size()) != kSuccess ||
        memory_(device, &memory) != kSuccess || pci_(device, &pci) != kSuccess) {
      return absl::UnavailableError(absl::StrCat("GPU ", index, " does not answer"));
    }
    return HostGpu{name.data(), pci.bus_id, static_cast<int64_t>(memory.total)};
  }
  GpuLink LinkOf(Device a, Device b) const {
    int status = -1;
    if (p2p_ != nullptr && p2p_(a, b, kP2pOverNvlink, &status) == kSuccess && status == kP2pWorks) {
      return GpuLink::kNvlink;
    }
    int level = -1;
    if (ancestor_ == nullptr || ancestor_(a, b, &level) != kSuccess || level < 0 ||
        level > kSystem) {
      return GpuLink::kUnknown;
    }
    return level <= kMultipleSwitches ? GpuLink::kPciSwitch
           : level <= kOneProcessor   ? GpuLink::kPciHost
                                      : GpuLink::kProcessors;
  }

 private:
  template <typename Function>
  bool Find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(handle_, name));
    return function != nullptr;
  }

  void* const handle_;
  bool initialized_ = false;
  int (*init_)() = nullptr;
  int (*shutdown_)() = nullptr;
  int (*driver_)(char*, unsigned) = nullptr;
  int (*count_)(unsigned*) = nullptr;
  int (*by_index_)(unsigned, Device*) = nullptr;
  int (*name_)(Device, char*, unsigned) = nullptr;
  int (*memory_)(Device, Memory*) = nullptr;
  int (*pci_)(Device, PciInfo*) = nullptr;
  int (*p2p_)(Device, Device, int, int*) = nullptr;
  int (*ancestor_)(Device, Device, int*) = nullptr;
};

// As CUDA reads it: the first that is no device ends the list.
absl::StatusOr<std::vector<unsigned>> VisibleOf(const char* visible, unsigned count) {
  std::vector<unsigned> numbers;
  if (visible == nullptr) {
    for (unsigned i = 0; i < count; ++i) {
      numbers.push_back(i);
    }
    return numbers;
  }
  for (const absl::string_view part : absl::StrSplit(visible, ',')) {
    int number = -1;
    if (!absl::SimpleAtoi(part, &number)) {
      if (part.empty()) {
        break;
      }
      return absl::InvalidArgumentError(
          absl::StrCat("CUDA_VISIBLE_DEVICES names '", part, "', only numbers are known here"));
    }
    if (number < 0 || static_cast<unsigned>(number) >= count) {
      break;
    }
    numbers.push_back(static_cast<unsigned>(number));
  }
  return numbers;
}

}  // namespace

const char* Name(GpuLink link) {
  static constexpr std::array kNames = {"NVLink", "a PCIe switch", "PCIe of one processor",
                                        "PCIe and the link between processors", "not known"};
  return kNames.at(static_cast<size_t>(link));
}

absl::StatusOr<HostGpus> FindGpus(const std::string& library, const char* visible) {
  Nvml nvml(library);
  if (absl::Status status = nvml.Start(library); !status.ok()) {
    return status;
  }
  const auto numbers = VisibleOf(visible, nvml.Count());
  if (!numbers.ok()) {
    return numbers.status();
  }
  HostGpus found{nvml.Driver(), {}, {}};
  std::vector<Device> devices;
  for (const unsigned number : *numbers) {
    Device device = nullptr;
    auto gpu = nvml.Describe(number, device);
    if (!gpu.ok()) {
      return gpu.status();
    }
    found.gpus.push_back(*std::move(gpu));
    devices.push_back(device);
  }
  for (const Device a : devices) {
    std::vector<GpuLink>& links = found.links.emplace_back();
    for (const Device b : devices) {
      links.push_back(a == b ? GpuLink::kUnknown : nvml.LinkOf(a, b));
    }
  }
  return found;
}

}  // namespace patchflow
