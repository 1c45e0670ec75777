#include "worker/memory_sampler.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <stop_token>
#include <utility>

namespace patchflow {

MemorySampler::MemorySampler(size_t devices, std::function<int64_t(size_t device)> read,
                             absl::Duration interval)
    : samples_(devices),
      thread_([this, read = std::move(read), interval](const std::stop_token& stop) {
        std::mutex mutex;
        std::condition_variable_any never;
        std::unique_lock lock(mutex);
        while (!stop.stop_requested()) {
          for (size_t device = 0; device < samples_.size(); ++device) {
            const int64_t used = read(device);
            samples_[device].used = used;
            samples_[device].peak = std::max(used, samples_[device].peak.load());
          }
          never.wait_for(lock, stop, absl::ToChronoNanoseconds(interval), [] { return false; });
        }
      }) {}

}  // namespace patchflow
