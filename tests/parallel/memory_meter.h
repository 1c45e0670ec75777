// How much host memory the tensors of each rank hold.
#pragma once

#include <atomic>
#include <cstdint>

namespace patchflow {

// Counts the tensors that one thread allocates while it is metered, wherever they are freed.
// Outlives them. Memory that libraries take beside tensors (packed weights of MKL) is not counted.
class MemoryMeter {
 public:
  int64_t live_bytes() const { return live_; }
  int64_t peak_bytes() const { return peak_; }  // Since the last ResetPeak().
  void ResetPeak() { peak_ = live_.load(); }
  void Add(int64_t bytes);  // Negative when a tensor goes.

 private:
  std::atomic<int64_t> live_{0};
  std::atomic<int64_t> peak_{0};
};

// Meters this thread while it lives. The first one replaces the process's allocator of host memory.
class MeteredThread {
 public:
  explicit MeteredThread(MemoryMeter& meter);
  ~MeteredThread();
  MeteredThread(const MeteredThread&) = delete;
  MeteredThread& operator=(const MeteredThread&) = delete;
};

}  // namespace patchflow
