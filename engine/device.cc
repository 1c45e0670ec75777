#include "engine/device.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/InferenceMode.h>
#ifdef PATCHFLOW_CUDA
#include <ATen/Context.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif
#include <torch/headeronly/version.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "absl/strings/str_cat.h"

namespace patchflow {
namespace {

#ifdef PATCHFLOW_CUDA
cudaDeviceProp PropertiesOf(at::Device device) {
  cudaDeviceProp properties;
  C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device.has_index() ? device.index() : 0));
  return properties;
}

// Before any GPU has been used the allocator knows no devices, and asking it about one throws.
bool AllocatorKnows(at::Device device) {
  return device.is_cuda() && c10::cuda::CUDACachingAllocator::get()->initialized();
}

// The allocator forgets its peak when it is reset.
std::atomic<int64_t>& HighestBeforeReset(at::Device device) {
  static std::array<std::atomic<int64_t>, C10_COMPILE_TIME_MAX_GPUS> highest = {};
  return highest.at(static_cast<size_t>(device.index()));
}
#endif

}  // namespace

int CudaDeviceCount() {
#ifdef PATCHFLOW_CUDA
  return c10::cuda::device_count();
#else
  return 0;
#endif
}

std::string DeviceName(at::Device device) {
#ifdef PATCHFLOW_CUDA
  if (device.is_cuda()) return PropertiesOf(device).name;
#endif
  return device.type() == at::kCPU ? "cpu" : device.str();
}

std::string ArithmeticName(at::Device device) {
  std::string name = absl::StrCat(DeviceName(device), ", LibTorch ", TORCH_VERSION);
  if (device.is_cpu()) {
    absl::StrAppend(&name, ", ", at::get_cpu_capability(), ", ", at::get_num_threads(), " threads");
  }
  return name;
}

DeviceMemory MemoryOf([[maybe_unused]] at::Device device) {
  DeviceMemory memory;
#ifdef PATCHFLOW_CUDA
  if (!AllocatorKnows(device)) return memory;
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device.index());
  constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  memory.used_bytes = stats.allocated_bytes[kAll].current;
  memory.peak_bytes = stats.allocated_bytes[kAll].peak;
  memory.highest_bytes = std::max(memory.peak_bytes, HighestBeforeReset(device).load());
  memory.reserved_bytes = stats.reserved_bytes[kAll].current;
#endif
  return memory;
}

void ResetPeakMemory([[maybe_unused]] at::Device device) {
#ifdef PATCHFLOW_CUDA
  if (!AllocatorKnows(device)) return;
  HighestBeforeReset(device) = MemoryOf(device).highest_bytes;
  c10::cuda::CUDACachingAllocator::resetPeakStats(device.index());
#endif
}

int64_t TotalMemoryBytes([[maybe_unused]] at::Device device) {
#ifdef PATCHFLOW_CUDA
  if (device.is_cuda()) return static_cast<int64_t>(PropertiesOf(device).totalGlobalMem);
#endif
  return 0;
}

int64_t DeviceUsedBytes([[maybe_unused]] at::Device device) {
#ifdef PATCHFLOW_CUDA
  if (!AllocatorKnows(device) || !c10::cuda::hasPrimaryContext(device.index())) return 0;
  const c10::cuda::CUDAGuard on_device(device);
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  if (cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) return 0;
  return static_cast<int64_t>(total_bytes - free_bytes);
#endif
  return 0;
}

void WaitForDevice([[maybe_unused]] at::Device device) {
#ifdef PATCHFLOW_CUDA
  if (device.is_cuda()) c10::cuda::getCurrentCUDAStream(device.index()).synchronize();
#endif
}

void SetThreadsPerOperation(int threads) { at::set_num_threads(threads); }

#ifdef PATCHFLOW_CUDA
struct DeviceThread::Stream {
  c10::cuda::CUDAStream stream;
};
#else
struct DeviceThread::Stream {};
#endif

struct DeviceThread::Guards {
  c10::InferenceMode inference;
#ifdef PATCHFLOW_CUDA
  c10::cuda::OptionalCUDAStreamGuard stream;
#endif
};

std::shared_ptr<const DeviceThread::Stream> DeviceThread::MakeStream(
    [[maybe_unused]] at::Device device, [[maybe_unused]] StreamPriority priority) {
#ifdef PATCHFLOW_CUDA
  if (device.is_cuda()) {
    at::globalContext().setFloat32MatmulPrecision("high");
    // CUDA's lowest is 0, and lower numbers go first.
    const int number = priority == StreamPriority::kRank ? -1 : 0;
    return std::make_shared<const Stream>(
        Stream{c10::cuda::getStreamFromPool(number, device.index())});
  }
#endif
  return nullptr;
}

DeviceThread::DeviceThread([[maybe_unused]] const std::shared_ptr<const Stream>& stream)
    : guards_(std::make_unique<Guards>()) {
#ifdef PATCHFLOW_CUDA
  if (stream != nullptr) guards_->stream.reset_stream(stream->stream.unwrap());
#endif
}

DeviceThread::~DeviceThread() = default;

}  // namespace patchflow
