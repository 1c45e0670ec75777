// How much of its devices' memory is in use, read again and again beside all else.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "absl/time/time.h"

namespace patchflow {

// The driver answers when it likes: heartbeats and ranks take what was read last. Thread-safe.
class MemorySampler {
 public:
  // Calls `read` for devices 0 to `devices` - 1 at once and then each `interval`, on one thread of
  // its own. What it gives: bytes in use, 0 for not known.
  MemorySampler(size_t devices, std::function<int64_t(size_t device)> read,
                absl::Duration interval);
  // Waits for `read` to return.
  ~MemorySampler() = default;
  MemorySampler(const MemorySampler&) = delete;
  MemorySampler& operator=(const MemorySampler&) = delete;

  // Bytes, 0 before the first was read.
  int64_t Used(size_t device) const { return samples_[device].used; }
  // Highest that was read so far.
  int64_t Peak(size_t device) const { return samples_[device].peak; }

 private:
  struct Sample {
    std::atomic<int64_t> used = 0;
    std::atomic<int64_t> peak = 0;
  };
  std::vector<Sample> samples_;
  std::jthread thread_;  // Ends before the samples.
};

}  // namespace patchflow
