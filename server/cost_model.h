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

namespace patchflow {

// Times of one image of a shape: text, decoding and encoding together, and one step.
struct Estimate {
  absl::Duration overhead;
  absl::Duration step;
  int samples = 0;

  absl::Duration Image(int steps) const { return overhead + steps * step; }
  absl::Duration Run(const v1::EffectiveParams& params) const {
    return params.count() * Image(params.steps());
  }
};

// A shape is plan, width, height and whether guidance runs two branches; time is linear in steps
// and images. Thread-safe.
class CostModel {
 public:
  // One finished image.
  void Record(const std::string& plan, const v1::EffectiveParams& params, absl::Duration overhead,
              absl::Duration denoise);
  // Moving averages; nothing while the shape is unknown.
  std::optional<Estimate> Expect(const std::string& plan, const v1::EffectiveParams& params) const;
  // The fastest tenth of the last 32 images; nothing below 5 samples.
  std::optional<Estimate> ExpectAtBest(const std::string& plan,
                                       const v1::EffectiveParams& params) const;

 private:
  using Shape = std::tuple<std::string, int, int, bool>;
  struct Learned {
    Estimate average;
    std::deque<Estimate> recent;
  };
  static Shape ShapeOf(const std::string& plan, const v1::EffectiveParams& params);

  mutable std::mutex mutex_;
  std::map<Shape, Learned> learned_;
};

}  // namespace patchflow
