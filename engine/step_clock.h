// Times the steps of a running loop where they run, and tells the request's monitor which are
// finished.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "engine/engine.h"

namespace patchflow {

// Stands between a Denoiser and a RequestMonitor. On a GPU it marks the end of each step with an
// event on the current stream, so that a step counts as done when the device has finished it; on
// CPUs enqueued is finished.
class StepClock final : public StepMonitor {
 public:
  StepClock(at::Device device, int num_steps, RequestMonitor& monitor);
  ~StepClock() override;

  bool Continue(int step) override;

  // One per step, after the device has finished the last one.
  std::vector<absl::Duration> Times() const;

 private:
  struct Marks;  // Marks 0 .. num_steps: mark k is set when step k - 1 has been enqueued.
  int num_steps_;
  RequestMonitor& monitor_;
  std::unique_ptr<Marks> marks_;
};

}  // namespace patchflow
