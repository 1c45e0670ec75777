// Points in the order of a device's work, and the times between them.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

namespace patchflow {

class Marks {
 public:
  virtual ~Marks() = default;
  virtual void Set() = 0;
  // Milliseconds from each mark to the next; waits for the last.
  virtual std::vector<double> Between() const = 0;
};

// GPUs: events of the current stream; CPUs: the clock.
std::unique_ptr<Marks> MakeMarks(at::Device device);

}  // namespace patchflow
