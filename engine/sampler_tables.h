// The numbers behind a Sampler, in double: timesteps and one row of coefficients a step.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/sampler.h"

namespace patchflow {

struct SamplerRow {
  double input_scale = 1;
  double x0_x = 0;
  double x0_eps = 0;
  double next_x = 0;
  double next_x0 = 0;
  double next_previous = 0;
};

struct SamplerTables {
  std::vector<double> timesteps;
  std::vector<SamplerRow> rows;
  double initial_noise_scale = 1;
  bool looks_back = false;  // Whether next_previous may be anything but 0.
};

// `steps` lies in [1, num_train_timesteps].
struct SamplerKind {
  std::string_view name;
  std::string_view diffusers_class;
  absl::StatusOr<SamplerTables> (*make)(const SamplerConfig& config, int steps);
};
std::span<const SamplerKind> SamplerKinds();

// DPM-Solver++ 2M, data prediction, midpoint (arXiv 2211.01095, algorithm 2), orders as diffusers
// chooses them. Where a timestep repeats, the multistep formula has no meaning and the step is of
// first order.
absl::StatusOr<SamplerTables> MakeDpmSolver(const SamplerConfig& config, int steps);
// DDIM with eta 0 (arXiv 2010.02502, equation 12). The step before lies num_train_timesteps / steps
// timesteps back, whatever the spacing, as in diffusers.
absl::StatusOr<SamplerTables> MakeDdim(const SamplerConfig& config, int steps);
// Euler's method in sigma (arXiv 2206.00364, algorithm 2 without churn).
absl::StatusOr<SamplerTables> MakeEuler(const SamplerConfig& config, int steps);

}  // namespace patchflow
