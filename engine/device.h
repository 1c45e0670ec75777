// The device under a rank: what it is, what memory it has used, and the state that LibTorch keeps
// for each thread.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>

namespace patchflow {

// 0 in a build without CUDA and on a machine without a driver.
int CudaDeviceCount();

// "cpu", or the GPU's own name, such as "NVIDIA H200".
std::string DeviceName(at::Device device);

// What of this machine the last bits of a result depend on, besides the program: the device,
// LibTorch's version, and on CPUs the vector instructions and the number of threads of an
// operation.
std::string ArithmeticName(at::Device device);

// Bytes that tensors hold, by LibTorch's caching allocator. All 0 on CPUs.
struct DeviceMemory {
  int64_t used_bytes = 0;
  int64_t peak_bytes = 0;      // Highest since ResetPeakMemory().
  int64_t highest_bytes = 0;   // Highest since the start of the process.
  int64_t reserved_bytes = 0;  // Taken from the device: with what is kept for tensors to come.
};
DeviceMemory MemoryOf(at::Device device);  // Thread-safe.
void ResetPeakMemory(at::Device device);
int64_t TotalMemoryBytes(at::Device device);  // 0 on CPUs.

// Bytes of the device that are in use, for whatever and by whatever process (cudaMemGetInfo()):
// what is left of TotalMemoryBytes() is what can still be had. 0 on CPUs, before this process has a
// context on the device (none is made for this), and after an error. It takes the driver's lock:
// for a thread of its own, on which no graph is captured and nothing waits. Some 100 us.
int64_t DeviceUsedBytes(at::Device device);

// Returns when the device has finished what the calling thread enqueued on its current stream.
void WaitForDevice(at::Device device);

// Threads of one operation on a CPU, for every thread of the process that has not yet run an
// operation.
void SetThreadsPerOperation(int threads);

// When kernels of two streams wait, those of the higher priority go first: what is made ahead after
// what ranks do, and both after what communicators move, whose streams have the highest.
enum class StreamPriority { kAhead, kRank };

// While it lives, the calling thread computes in inference mode on the device and in the order of
// `stream`. GPUs compute float32 products in TF32.
class DeviceThread {
 public:
  // A stream of the device's pool; nullptr on CPUs.
  struct Stream;
  static std::shared_ptr<const Stream> MakeStream(at::Device device,
                                                  StreamPriority priority = StreamPriority::kRank);

  explicit DeviceThread(const std::shared_ptr<const Stream>& stream);
  ~DeviceThread();
  DeviceThread(const DeviceThread&) = delete;
  DeviceThread& operator=(const DeviceThread&) = delete;

 private:
  struct Guards;
  std::unique_ptr<Guards> guards_;
};

}  // namespace patchflow
