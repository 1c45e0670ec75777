// A driver's library with two devices, whose errors the environment tells:
//   FAKE_NVML_XIDS=79:1,31:0    Xid and device, of events that wait
//   FAKE_NVML_ECC=2             uncorrectable errors so far of device 0; device 1 has no ECC
//   FAKE_NVML_BROKEN=1          nothing works
//   FAKE_NVML_GPUS=2            devices that are counted, 4 at most
//   FAKE_NVML_GIB=80            memory of each
//   FAKE_NVML_NVLINK=1          NVLink between all
//   FAKE_NVML_LEVEL=20          the common ancestor of two, as NVML numbers them; none: not told
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

int devices[4];
std::string events;

int FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? 0 : std::atoi(value);
}

}  // namespace

extern "C" {

struct FakeEvent {
  void* device;
  unsigned long long type;
  unsigned long long data;
  unsigned gpu_instance;
  unsigned compute_instance;
};

struct FakeMemory {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};
struct FakePci {
  char legacy_bus_id[16];
  unsigned numbers[5];
  char bus_id[32];
};

int nvmlInit_v2() { return FromEnvironment("FAKE_NVML_BROKEN") != 0 ? 9 : 0; }
int nvmlShutdown() { return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char* bus_id, void** device) {
  if (std::strcmp(bus_id, "0000:1B:00.0") != 0 && std::strcmp(bus_id, "0000:2B:00.0") != 0) {
    return 6;
  }
  *device = &devices[bus_id[5] - '1'];
  return 0;
}
int nvmlEventSetCreate(void** set) {
  const char* value = std::getenv("FAKE_NVML_XIDS");
  events = value == nullptr ? "" : value;
  *set = &events;
  return 0;
}
int nvmlEventSetFree(void* /*set*/) { return 0; }
int nvmlDeviceRegisterEvents(void* /*device*/, unsigned long long types, void* /*set*/) {
  return types == 8 ? 0 : 2;
}
int nvmlEventSetWait_v2(void* /*set*/, FakeEvent* event, unsigned timeout_ms) {
  if (events.empty() || timeout_ms != 0) return 10;
  event->type = 8;
  event->data = std::strtoull(events.c_str(), nullptr, 10);
  event->device = &devices[events[events.find(':') + 1] - '0'];
  const size_t comma = events.find(',');
  events = comma == std::string::npos ? "" : events.substr(comma + 1);
  return 0;
}
int nvmlDeviceGetTotalEccErrors(void* device, int type, int counter, unsigned long long* count) {
  if (device != &devices[0] || type != 1 || counter != 0) return 3;
  *count = static_cast<unsigned long long>(FromEnvironment("FAKE_NVML_ECC"));
  return 0;
}

int nvmlSystemGetDriverVersion(char* version, unsigned size) {
  return std::snprintf(version, size, "570.86.10") > 0 ? 0 : 7;
}
int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = static_cast<unsigned>(FromEnvironment("FAKE_NVML_GPUS"));
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  if (index >= 4) return 2;
  *device = &devices[index];
  return 0;
}
int nvmlDeviceGetName(void* /*device*/, char* name, unsigned size) {
  return std::snprintf(name, size, "Fake H1") > 0 ? 0 : 7;
}
int nvmlDeviceGetMemoryInfo(void* /*device*/, FakeMemory* memory) {
  memory->total = static_cast<unsigned long long>(FromEnvironment("FAKE_NVML_GIB")) << 30;
  return 0;
}
int nvmlDeviceGetPciInfo_v3(void* device, FakePci* pci) {
  const auto index = static_cast<int>(static_cast<int*>(device) - devices);
  return std::snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%dB:00.0", index + 1) > 0 ? 0 : 7;
}
int nvmlDeviceGetP2PStatus(void* /*a*/, void* /*b*/, int index, int* status) {
  *status = index == 2 && FromEnvironment("FAKE_NVML_NVLINK") != 0 ? 0 : 5;
  return 0;
}
int nvmlDeviceGetTopologyCommonAncestor(void* /*a*/, void* /*b*/, int* level) {
  *level = FromEnvironment("FAKE_NVML_LEVEL");
  return std::getenv("FAKE_NVML_LEVEL") == nullptr ? 3 : 0;
}

}  // extern "C"
