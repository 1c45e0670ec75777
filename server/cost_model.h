// What a request will cost, learned from those that ran.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>

#include "absl/time/time.h"
#include "patchflow/v1/image_generation.pb.h"
#include "server/memory_budget.h"

namespace patchflow {

// Times of one pass of a shape: text, decoding and encoding together, and one step.
struct Estimate {
  absl::Duration overhead;
  absl::Duration step;
  int samples = 0;
  int batch_size = 1;  // Images of a pass, at most.

  // A pass costs the same however many images it has, which share it as well as they can.
  absl::Duration Images(int images, int steps) const {
    return (images + batch_size - 1) / batch_size * (overhead + steps * step);
  }
  absl::Duration Run(const v1::EffectiveParams& params) const {
    return Images(params.count(), params.steps());
  }
};

// A shape is plan, and with it the batch size, width, height and whether guidance runs two
// branches; time is linear in steps and passes. What is learned of a pass that was not full counts
// as any other: its overhead is less, by the images that were not decoded. Thread-safe.
class CostModel {
 public:
  // One finished image, and the times of its pass.
  void Record(const std::string& plan, const v1::EffectiveParams& params, absl::Duration overhead,
              absl::Duration denoise);
  // Moving averages; nothing while the shape is unknown. `batch_size`: the plan's.
  std::optional<Estimate> Expect(const std::string& plan, const v1::EffectiveParams& params,
                                 int batch_size = 1) const;
  // The fastest tenth of the last 32 images; nothing below 5 samples.
  std::optional<Estimate> ExpectAtBest(const std::string& plan, const v1::EffectiveParams& params,
                                       int batch_size = 1) const;
  // Of the same plans.
  MemoryBudget& memory() { return memory_; }

 private:
  using Shape = std::tuple<std::string, int, int, bool>;
  struct Learned {
    Estimate average;
    std::deque<Estimate> recent;
  };
  static Shape ShapeOf(const std::string& plan, const v1::EffectiveParams& params);

  mutable std::mutex mutex_;
  std::map<Shape, Learned> learned_;
  MemoryBudget memory_;
};

}  // namespace patchflow
