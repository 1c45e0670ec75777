#include "worker/nvml_watch.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

// nvml.h, as far as it is used.
using Device = void*;
using EventSet = void*;
struct EventData {
  Device device;
  unsigned long long type;
  unsigned long long data;
  unsigned gpu_instance;
  unsigned compute_instance;
};
constexpr int kSuccess = 0;
constexpr unsigned long long kXidEvent = 8;
constexpr int kUncorrected = 1;
constexpr int kVolatile = 0;

// Double-bit and other ECC errors, micro-controller halts, row remapping failures, NVLink, off the
// bus, GSP timeouts. Not: 13, 31, 43, 45 and others, which a faulty kernel causes.
constexpr std::array kBroken = {48ULL, 61ULL, 62ULL,  64ULL,  74ULL, 79ULL,
                                94ULL, 95ULL, 119ULL, 120ULL, 140ULL};
constexpr int kMaxEvents = 64;  // At one call.

}  // namespace

bool XidMeansBrokenDevice(unsigned long long xid) {
  return std::find(kBroken.begin(), kBroken.end(), xid) != kBroken.end();
}

struct NvmlWatch::Library {
  struct Watched {
    std::string bus_id;
    Device device = nullptr;
    unsigned long long ecc_errors = 0;
  };
  void* handle = nullptr;
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*by_bus_id)(const char*, Device*) = nullptr;
  int (*create_set)(EventSet*) = nullptr;
  int (*free_set)(EventSet) = nullptr;
  int (*listen)(Device, unsigned long long, EventSet) = nullptr;
  int (*wait)(EventSet, EventData*, unsigned) = nullptr;
  int (*ecc_total)(Device, int, int, unsigned long long*) = nullptr;
  bool initialized = false;
  EventSet set = nullptr;
  std::vector<Watched> watched;

  template <typename Function>
  bool Find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(handle, name));
    return function != nullptr;
  }
  bool FindAll() {
    return Find(init, "nvmlInit_v2") && Find(shutdown, "nvmlShutdown") &&
           Find(by_bus_id, "nvmlDeviceGetHandleByPciBusId_v2") &&
           Find(create_set, "nvmlEventSetCreate") && Find(free_set, "nvmlEventSetFree") &&
           Find(listen, "nvmlDeviceRegisterEvents") && Find(wait, "nvmlEventSetWait_v2") &&
           Find(ecc_total, "nvmlDeviceGetTotalEccErrors");
  }
  // 0 where there is no ECC.
  unsigned long long EccErrors(Device device) const {
    unsigned long long count = 0;
    return ecc_total(device, kUncorrected, kVolatile, &count) == kSuccess ? count : 0;
  }
  absl::Status Watch(const std::vector<std::string>& bus_ids) {
    if (init() != kSuccess) return absl::UnavailableError("NVML can't be initialized");
    initialized = true;
    if (create_set(&set) != kSuccess) return absl::UnavailableError("NVML gives no event set");
    for (const std::string& bus_id : bus_ids) {
      Watched one{.bus_id = bus_id};
      if (by_bus_id(bus_id.c_str(), &one.device) != kSuccess ||
          listen(one.device, kXidEvent, set) != kSuccess) {
        return absl::UnavailableError(absl::StrCat("NVML does not watch ", bus_id));
      }
      one.ecc_errors = EccErrors(one.device);
      watched.push_back(one);
    }
    return absl::OkStatus();
  }
  std::string BusIdOf(Device device) const {
    for (const Watched& one : watched) {
      if (one.device == device) return one.bus_id;
    }
    return "another device";
  }
};

absl::StatusOr<std::unique_ptr<NvmlWatch>> NvmlWatch::Open(
    const std::string& library, const std::vector<std::string>& bus_ids) {
  auto loaded = std::make_unique<Library>();
  loaded->handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (loaded->handle == nullptr) return absl::NotFoundError(absl::StrCat("no ", library));
  std::unique_ptr<NvmlWatch> watch(new NvmlWatch(std::move(loaded)));
  if (!watch->library_->FindAll()) {
    return absl::NotFoundError(absl::StrCat(library, " is not the NVML that is known here"));
  }
  if (const absl::Status status = watch->library_->Watch(bus_ids); !status.ok()) return status;
  return watch;
}

NvmlWatch::NvmlWatch(std::unique_ptr<Library> library) : library_(std::move(library)) {}

NvmlWatch::~NvmlWatch() {
  if (library_->set != nullptr) library_->free_set(library_->set);
  if (library_->initialized) library_->shutdown();
  dlclose(library_->handle);
}

std::vector<DeviceFault> NvmlWatch::TakeFaults() {
  std::vector<DeviceFault> faults;
  EventData event{};
  for (int i = 0; i < kMaxEvents && library_->wait(library_->set, &event, 0) == kSuccess; ++i) {
    if (event.type == kXidEvent && XidMeansBrokenDevice(event.data)) {
      const std::string device = library_->BusIdOf(event.device);
      faults.push_back({DeviceFaultKind::kXid, static_cast<int64_t>(event.data), device,
                        absl::StrCat(device, ": Xid ", event.data)});
    }
  }
  for (Library::Watched& one : library_->watched) {
    const unsigned long long now = library_->EccErrors(one.device);
    if (now > one.ecc_errors) {
      const auto errors = static_cast<int64_t>(now - one.ecc_errors);
      faults.push_back({DeviceFaultKind::kEcc, errors, one.bus_id,
                        absl::StrCat(one.bus_id, ": ", errors, " uncorrectable ECC errors")});
    }
    one.ecc_errors = now;
  }
  return faults;
}

}  // namespace patchflow
