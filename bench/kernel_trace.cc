#include "bench/kernel_trace.h"

#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <cupti.h>
#include <cxxabi.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>

namespace patchflow {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;
constexpr double kNsPerMs = 1e6;

void Check(CUptiResult result, const char* what) {
  if (result == CUPTI_SUCCESS) return;
  const char* text = nullptr;
  cuptiGetResultString(result, &text);
  throw std::runtime_error(std::string("CUPTI, ") + what + ": " +
                           (text == nullptr ? "unknown" : text));
}

// CUPTI's thread fills it.
struct Trace {
  std::mutex mutex;
  std::map<std::string, KernelTimes> kernels;
};
Trace& TheTrace() {
  static Trace trace;
  return trace;
}

std::string Demangled(const char* name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> plain(
      abi::__cxa_demangle(name, nullptr, nullptr, &status), std::free);
  return status == 0 ? plain.get() : name;
}

void CUPTIAPI GiveBuffer(uint8_t** buffer, size_t* size, size_t* most_records) {
  *size = kBufferBytes;
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(ACTIVITY_RECORD_ALIGNMENT, kBufferBytes));
  *most_records = 0;
}

void Take(const CUpti_Activity& record) {
  std::string name;
  double ms = 0;
  if (record.kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
    const auto& kernel = reinterpret_cast<const CUpti_ActivityKernel10&>(record);
    name = Demangled(kernel.name);
    ms = static_cast<double>(kernel.end - kernel.start) / kNsPerMs;
  } else if (record.kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
    const auto& copy = reinterpret_cast<const CUpti_ActivityMemcpy6&>(record);
    name = "copy";
    ms = static_cast<double>(copy.end - copy.start) / kNsPerMs;
  } else if (record.kind == CUPTI_ACTIVITY_KIND_MEMSET) {
    const auto& set = reinterpret_cast<const CUpti_ActivityMemset4&>(record);
    name = "set";
    ms = static_cast<double>(set.end - set.start) / kNsPerMs;
  } else {
    return;
  }
  Trace& trace = TheTrace();
  const std::lock_guard lock(trace.mutex);
  KernelTimes& times = trace.kernels[name];
  ++times.launches;
  times.ms += ms;
}

void CUPTIAPI TakeBuffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) Take(*record);
  std::free(buffer);
}

constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                         CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET};

}  // namespace

std::map<std::string, KernelTimes> TraceKernels(const std::function<void()>& work) {
  C10_CUDA_CHECK(cudaDeviceSynchronize());
  Check(cuptiActivityRegisterCallbacks(GiveBuffer, TakeBuffer), "registering");
  for (const CUpti_ActivityKind kind : kKinds) Check(cuptiActivityEnable(kind), "enabling");
  {
    const std::lock_guard lock(TheTrace().mutex);
    TheTrace().kernels.clear();
  }
  work();
  C10_CUDA_CHECK(cudaDeviceSynchronize());
  Check(cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED), "flushing");
  for (const CUpti_ActivityKind kind : kKinds) Check(cuptiActivityDisable(kind), "disabling");
  const std::lock_guard lock(TheTrace().mutex);
  return TheTrace().kernels;
}

}  // namespace patchflow
