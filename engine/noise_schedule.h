// The noise that a model was trained with, by timestep, and the choice of timesteps.
#pragma once

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/sampler.h"

namespace patchflow {

// Products of alphas are rounded to float32 as diffusers has them; all else is double.
class NoiseSchedule {
 public:
  explicit NoiseSchedule(const SamplerConfig& config);
  double alpha_bar(int timestep) const { return alpha_bars_[timestep]; }
  // sqrt((1 - alpha_bar) / alpha_bar), linear between timesteps, constant beyond the last.
  double Sigma(double timestep) const;

 private:
  std::vector<double> alpha_bars_;
};

// Which of diffusers' two readings of "linspace" and "leading" a sampler takes.
enum class Spacing {
  kEndsAtZero,     // `steps` timesteps, the last of which is 0 (plus steps_offset).
  kLeavesOutZero,  // The first `steps` of steps + 1.
};

// Descending timesteps. `fractional` leaves those of "linspace" as they fall, in float32.
// "trailing" yields exactly `steps`; diffusers, by rounding, one more for some counts (61, 103,
// ...), at timestep -1.
std::vector<double> MakeTimesteps(std::string_view timestep_spacing, const SamplerConfig& config,
                                  int steps, Spacing spacing, bool fractional);

}  // namespace patchflow
