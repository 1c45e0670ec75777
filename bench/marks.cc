#include "bench/marks.h"

#include <chrono>

#ifdef PATCHFLOW_CUDA
#include <ATen/cuda/CUDAEvent.h>
#endif

namespace patchflow {
namespace {

class HostMarks final : public Marks {
 public:
  void Set() override { times_.push_back(std::chrono::steady_clock::now()); }
  std::vector<double> Between() const override {
    std::vector<double> ms;
    for (size_t i = 1; i < times_.size(); ++i) {
      ms.push_back(std::chrono::duration<double, std::milli>(times_[i] - times_[i - 1]).count());
    }
    return ms;
  }

 private:
  std::vector<std::chrono::steady_clock::time_point> times_;
};

#ifdef PATCHFLOW_CUDA
class DeviceMarks final : public Marks {
 public:
  void Set() override { events_.emplace_back(cudaEventDefault).record(); }
  std::vector<double> Between() const override {
    std::vector<double> ms;
    if (!events_.empty()) events_.back().synchronize();
    for (size_t i = 1; i < events_.size(); ++i) {
      ms.push_back(events_[i - 1].elapsed_time(events_[i]));
    }
    return ms;
  }

 private:
  std::vector<at::cuda::CUDAEvent> events_;
};
#endif

}  // namespace

std::unique_ptr<Marks> MakeMarks([[maybe_unused]] at::Device device) {
#ifdef PATCHFLOW_CUDA
  if (device.is_cuda()) return std::make_unique<DeviceMarks>();
#endif
  return std::make_unique<HostMarks>();
}

}  // namespace patchflow
