#include "engine/noise_schedule.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace patchflow {
namespace {

// As numpy.linspace: the last point is exact.
std::vector<double> EvenlySpaced(double last, int points) {
  std::vector<double> values(points, 0.0);
  const double step = points > 1 ? last / (points - 1) : 0.0;
  for (int i = 0; i < points; ++i) {
    values[i] = i * step;
  }
  if (points > 1) {
    values.back() = last;
  }
  return values;
}

Tensor Betas(const SamplerConfig& config) {
  const auto options = at::TensorOptions().dtype(at::kFloat);
  if (config.beta_schedule == "scaled_linear") {
    return at::linspace(std::sqrt(config.beta_start), std::sqrt(config.beta_end),
                        config.num_train_timesteps, options)
        .square();
  }
  return at::linspace(config.beta_start, config.beta_end, config.num_train_timesteps, options);
}

std::vector<double> Linspace(const SamplerConfig& config, int points, bool fractional) {
  std::vector<double> timesteps = EvenlySpaced(config.num_train_timesteps - 1, points);
  for (double& t : timesteps) {
    t = fractional ? static_cast<double>(static_cast<float>(t)) : std::nearbyint(t);
  }
  return timesteps;
}

std::vector<double> Leading(const SamplerConfig& config, int points) {
  const int stride = config.num_train_timesteps / points;
  std::vector<double> timesteps(points);
  for (int i = 0; i < points; ++i) {
    timesteps[i] = i * stride + config.steps_offset;
  }
  return timesteps;
}

std::vector<double> Trailing(const SamplerConfig& config, int steps) {
  const double total = config.num_train_timesteps;
  const double stride = total - (total - total / steps);  // As numpy.arange rounds it.
  std::vector<double> timesteps(steps);
  for (int i = 0; i < steps; ++i) {
    timesteps[i] = std::nearbyint(total - i * stride) - 1;
  }
  return timesteps;
}

}  // namespace

NoiseSchedule::NoiseSchedule(const SamplerConfig& config) {
  const Tensor products = at::cumprod(1 - Betas(config), 0);
  const float* values = products.const_data_ptr<float>();
  alpha_bars_.assign(values, values + products.numel());
}

double NoiseSchedule::Sigma(double timestep) const {
  const auto at = [this](size_t index) {
    return std::sqrt((1 - alpha_bars_[index]) / alpha_bars_[index]);
  };
  const double last = static_cast<double>(alpha_bars_.size() - 1);
  const double clamped = std::clamp(timestep, 0.0, last);
  const double below = std::min(std::floor(clamped), std::max(last - 1, 0.0));
  const auto index = static_cast<size_t>(below);
  const double fraction = clamped - below;
  return fraction == 0 ? at(index) : at(index) + fraction * (at(index + 1) - at(index));
}

std::vector<double> MakeTimesteps(std::string_view timestep_spacing, const SamplerConfig& config,
                                  int steps, Spacing spacing, bool fractional) {
  if (timestep_spacing == "trailing") {
    return Trailing(config, steps);
  }
  const int points = spacing == Spacing::kLeavesOutZero ? steps + 1 : steps;
  std::vector<double> timesteps = timestep_spacing == "leading"
                                      ? Leading(config, points)
                                      : Linspace(config, points, fractional);
  std::reverse(timesteps.begin(), timesteps.end());
  timesteps.resize(steps);
  return timesteps;
}

}  // namespace patchflow
