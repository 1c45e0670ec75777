#include "engine/step_clock.h"

#include <algorithm>
#include <chrono>
#ifdef PATCHFLOW_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#endif

namespace patchflow {

struct StepClock::Marks {
  virtual ~Marks() = default;
  virtual void Set() = 0;
  // Marks that the device has passed.
  virtual int Passed() = 0;
  virtual absl::Duration Between(int mark, int next) const = 0;
};

namespace {

template <typename Base>
class HostMarks final : public Base {
 public:
  void Set() override { times_.push_back(std::chrono::steady_clock::now()); }
  int Passed() override { return static_cast<int>(times_.size()); }
  absl::Duration Between(int mark, int next) const override {
    return absl::FromChrono(times_.at(next) - times_.at(mark));
  }

 private:
  std::vector<std::chrono::steady_clock::time_point> times_;
};

#ifdef PATCHFLOW_CUDA
template <typename Base>
class DeviceMarks final : public Base {
 public:
  explicit DeviceMarks(at::Device device) : device_(device) {}
  ~DeviceMarks() override {
    for (cudaEvent_t event : events_) C10_CUDA_IGNORE_ERROR(cudaEventDestroy(event));
  }
  DeviceMarks(const DeviceMarks&) = delete;
  DeviceMarks& operator=(const DeviceMarks&) = delete;

  void Set() override {
    cudaEvent_t event = nullptr;
    C10_CUDA_CHECK(cudaEventCreate(&event));
    events_.push_back(event);
    C10_CUDA_CHECK(cudaEventRecord(event, c10::cuda::getCurrentCUDAStream(device_.index())));
  }

  int Passed() override {
    for (; passed_ < events_.size(); ++passed_) {
      const cudaError_t state = cudaEventQuery(events_[passed_]);
      if (state == cudaErrorNotReady) {
        C10_CUDA_IGNORE_ERROR(cudaGetLastError());
        break;
      }
      C10_CUDA_CHECK(state);
    }
    return static_cast<int>(passed_);
  }

  absl::Duration Between(int mark, int next) const override {
    float ms = 0;
    C10_CUDA_CHECK(cudaEventElapsedTime(&ms, events_.at(mark), events_.at(next)));
    return absl::Microseconds(1000.0 * ms);
  }

 private:
  at::Device device_;
  std::vector<cudaEvent_t> events_;
  size_t passed_ = 0;
};
#endif

}  // namespace

StepClock::StepClock([[maybe_unused]] at::Device device, int num_steps, RequestMonitor& monitor)
    : num_steps_(num_steps), monitor_(monitor) {
#ifdef PATCHFLOW_CUDA
  if (device.is_cuda()) marks_ = std::make_unique<DeviceMarks<Marks>>(device);
#endif
  if (marks_ == nullptr) marks_ = std::make_unique<HostMarks<Marks>>();
}

StepClock::~StepClock() = default;

bool StepClock::Continue(int step) {
  marks_->Set();
  monitor_.StepsDone(step == num_steps_ ? num_steps_ : std::max(0, marks_->Passed() - 1));
  return monitor_.Continue(step);
}

std::vector<absl::Duration> StepClock::Times() const {
  std::vector<absl::Duration> times;
  for (int step = 0; step < num_steps_; ++step) times.push_back(marks_->Between(step, step + 1));
  return times;
}

}  // namespace patchflow
